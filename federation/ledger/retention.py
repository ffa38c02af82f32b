"""Retention: finished tasks and their results go after a time, in small batches."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Connection, delete, exists, select

from ..context import Federation
from ..db import shared
from ..db.tables import groups, idempotency, submissions, tasks
from . import logs, streams

#: Rows deleted in one transaction, so that the hot path never waits long for it.
BATCH = 1000
#: How long answers of submissions are kept for repeated requests.
IDEMPOTENCY_SECONDS = 86400.0
#: Advisory lock of PostgreSQL that the one sweeper holds that deletes (any number will do).
LOCK = 7_566_268_766


def retain(fed: Federation, now: float) -> int:
    """Delete one batch of what is older than the retention time; return how many tasks went."""
    with fed.database.read() as connection:
        old = select(tasks.c.no).where(tasks.c.finished < now - fed.settings.retention)
        if connection.execute(old.limit(1)).first() is None:
            return 0
    with fed.database.write() as connection:
        if not shared.alone(connection, LOCK):
            return 0  # another sweeper is at it
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
    """Delete groups without tasks, with their submissions; not those that a submission joins just now."""
    among = shared.among(connection, groups.c.no, sorted(group_nos))
    held = connection.execute(select(groups.c.no).where(among).with_for_update(skip_locked=True)).scalars()
    mine = select(tasks.c.no).where(tasks.c.group_no == groups.c.no)
    query = select(groups.c.no).where(shared.among(connection, groups.c.no, list(held)), ~exists(mine))
    empty = [no for (no,) in connection.execute(query)]
    if empty:
        connection.execute(delete(submissions).where(shared.among(connection, submissions.c.group_no, empty)))
        connection.execute(delete(groups).where(shared.among(connection, groups.c.no, empty)))


def forget_answers(fed: Federation, now: float) -> int:
    """Delete old answers of submissions; return how many."""
    old = idempotency.c.created < now - IDEMPOTENCY_SECONDS
    with fed.database.read() as connection:  # mostly there is nothing, and then nobody waits for us
        if connection.execute(select(idempotency.c.key).where(old).limit(1)).first() is None:
            return 0
    with fed.database.write() as connection:
        return connection.execute(delete(idempotency).where(old)).rowcount
