"""Retention: deletes old finished tasks and their results in small batches."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import ColumnElement, Connection, delete, exists, func, literal_column, select, update

from ..context import Federation
from ..db import shared
from ..db.tables import functions, groups, idempotency, nodes, sites, submissions, tasks
from . import logs, streams

#: Maximum rows deleted in one transaction; keeps locks short for the hot path.
BATCH = 1000
#: How long responses to submissions are stored for repeated requests, seconds.
IDEMPOTENCY_SECONDS = 86400.0
#: PostgreSQL advisory lock of the sweeper that deletes tasks (an arbitrary number).
LOCK = 7_566_268_766


def delete_old_tasks(fed: Federation, now: float) -> int:
    """Delete one batch of tasks older than the retention time; return how many."""
    with fed.database.read() as connection:
        old = select(tasks.c.no).where(tasks.c.finished < now - fed.settings.retention)
        if connection.execute(old.limit(1)).first() is None:
            return 0
    with fed.database.write() as connection:
        if not shared.try_advisory_lock(connection, LOCK):
            return 0  # another sweeper is deleting
        columns = tasks.c.no, tasks.c.blob_no, tasks.c.result_blob_no, tasks.c.submission_no, tasks.c.group_no
        query = select(*columns).where(tasks.c.finished < now - fed.settings.retention)
        found = connection.execute(query.order_by(tasks.c.finished).limit(BATCH)).all()
        numbers = [row.no for row in found]
        connection.execute(delete(tasks).where(shared.among(connection, tasks.c.no, numbers)))
        logs.drop(connection, numbers)
        streams.drop(connection, numbers)
        uses = Counter(row.blob_no for row in found)
        uses.update(row.result_blob_no for row in found if row.result_blob_no is not None)
        shared.release_blobs(connection, uses)
        _drop_empty_groups(connection, {row.group_no for row in found})
    return len(found)


def _drop_empty_groups(connection: Connection, group_nos: set[int]) -> None:
    """Delete groups without tasks, and their submissions; skip groups that are locked by a submission."""
    among = shared.among(connection, groups.c.no, sorted(group_nos))
    locked = connection.execute(select(groups.c.no).where(among).with_for_update(skip_locked=True)).scalars()
    mine = select(tasks.c.no).where(tasks.c.group_no == groups.c.no)
    query = select(groups.c.no).where(shared.among(connection, groups.c.no, list(locked)), ~exists(mine))
    empty = [no for (no,) in connection.execute(query)]
    if empty:
        delete_submissions(connection, shared.among(connection, submissions.c.group_no, empty))
        connection.execute(delete(groups).where(shared.among(connection, groups.c.no, empty)))


def delete_submissions(connection: Connection, which: ColumnElement[bool]) -> int:
    """Delete submissions, and record in their functions when these were used; return how many."""
    latest = func.max(submissions.c.created)
    query = select(submissions.c.function_no, latest).where(which).group_by(submissions.c.function_no)
    for function_no, used in connection.execute(query).all():
        later = functions.c.no == function_no, func.coalesce(functions.c.used, 0.0) < used
        connection.execute(update(functions).where(*later).values(used=used))
    return connection.execute(delete(submissions).where(which)).rowcount


def delete_old_nodes(fed: Federation, now: float) -> int:
    """Delete one batch of dead nodes that were last seen before the retention time; return how many.

    A node has a new name in each container and after each boot. Those of an elastic endpoint's blocks are
    kept: the provisioner deletes them.
    """
    elastic = exists().where(sites.c.endpoint_no == nodes.c.endpoint_no) & nodes.c.name.like("umbel-%")
    old = nodes.c.seen < now - fed.settings.retention, nodes.c.live == literal_column("0"), ~elastic
    with fed.database.read() as connection:
        query = select(nodes.c.no).where(*old).order_by(nodes.c.seen).limit(BATCH)
        found = list(connection.execute(query).scalars())
    if not found:
        return 0
    with fed.database.write() as connection:
        # a node that has sent a heartbeat in the meantime stays
        still = delete(nodes).where(shared.among(connection, nodes.c.no, found), *old)
        return connection.execute(still).rowcount


def expire_idempotency_keys(fed: Federation, now: float) -> int:
    """Delete old idempotency keys and their responses; return how many."""
    old = idempotency.c.created < now - IDEMPOTENCY_SECONDS
    with fed.database.read() as connection:  # usually there is nothing to delete, and no write lock is needed
        if connection.execute(select(idempotency.c.key).where(old).limit(1)).first() is None:
            return 0
    with fed.database.write() as connection:
        return connection.execute(delete(idempotency).where(old)).rowcount
