"""Rows of worker nodes, updated from heartbeats."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, exists, func, insert, select, update

from umbel.protocol import names
from umbel.protocol.messages import Interruption, OpenReport

from ..db.statements import Statement, unindexed
from ..db.tables import bundles, nodes
from .node_facts import known_facts, printable
from .task_rows import Task, tasks_in_bundles

#: Maximum length of a node's name, and of its facts as JSON, characters.
NAME_LENGTH, FACTS_LENGTH = 128, 16384
#: Maximum rows of one endpoint, and how many of its oldest dead nodes are deleted at once to make room.
MAX_NODES, EVICTED = 20_000, 100


class TooManyNodes(Exception):
    """A report of a new node of an endpoint that has as many nodes as it may have."""


_HEARTBEAT = ("instance", "incarnation", "beat", "slots", "busy", "facts", "since", "seen", "live")
_find = Statement(
    lambda d: select(
        *(nodes.c[name] for name in ("no", "instance", "incarnation", "beat", "since", "slots", "facts"))
    ).where(nodes.c.endpoint_no == bindparam("endpoint"), nodes.c.name == bindparam("node"))
)
_add = Statement(lambda d: insert(nodes).returning(nodes.c.no), ("endpoint_no", "name", *_HEARTBEAT))
_update = Statement(
    lambda d: update(nodes)
    .values({name: bindparam("v_" + name) for name in _HEARTBEAT})
    .where(nodes.c.no == bindparam("v_no"))
)
_set_packages = Statement(
    lambda d: update(nodes)
    .values(packages=bindparam("v_packages"))
    .where(nodes.c.endpoint_no == bindparam("endpoint"), nodes.c.name == bindparam("node"))
)
_assign = Statement(
    lambda d: update(bundles)
    .values(node_no=bindparam("node"), held=bindparam("now"))
    .where(d.among(bundles.c.id, "ids"), unindexed(bundles.c.endpoint_no) == bindparam("endpoint"))
)
_count = Statement(
    lambda d: select(func.count()).select_from(nodes).where(nodes.c.endpoint_no == bindparam("endpoint"))
)
_assigned = Statement(lambda d: select(bundles.c.no).where(bundles.c.node_no == bindparam("node")))


def record_heartbeat(
    connection: Connection, endpoint_no: int, report: OpenReport, now: float
) -> tuple[int, list[Task]]:
    """Record a node's report; return its number and the unfinished tasks of a node that is gone.

    A node is gone if it shuts down, or if a new instance replaces it: the tasks of the old instance are lost.
    A heartbeat or goodbye of an earlier run, or older than the last one, changes nothing: it may have been
    delayed, or be repeated by another party.
    """
    name = report.node[:NAME_LENGTH]
    instance = report.instance[:36]
    node = _find.first(connection, endpoint=endpoint_no, node=name)
    if node is None:
        _make_room(connection, endpoint_no)
        beat = _described(report, now, since=now, slots=0, facts="{}")
        no = int(_add.value(connection, endpoint_no=endpoint_no, name=name, instance=instance, **beat))
        _store_packages(connection, endpoint_no, name, report)
        _record_bundles(connection, endpoint_no, no, report, now)
        return no, []
    no, known, incarnation, beat, since, slots, facts = node
    if report.heartbeat is None and not report.goodbye:
        return no, []  # only outcomes, possibly a late report of an earlier instance
    if _is_old(report, known, incarnation, beat) or (report.goodbye and known != instance):
        return no, []
    left = tasks_on_node(connection, no) if known != instance or report.goodbye else []
    beat = _described(report, now, since=since if known == instance else now, slots=slots, facts=facts)
    _update.run(
        connection, v_no=no, v_instance=instance, **{"v_" + key: value for key, value in beat.items()}
    )
    _store_packages(connection, endpoint_no, name, report)
    _record_bundles(connection, endpoint_no, no, report, now)
    return no, left


def _make_room(connection: Connection, endpoint_no: int) -> None:
    """Delete the oldest dead nodes of an endpoint if it has too many rows.

    An endpoint names its nodes itself and could invent any number of them. Raises TooManyNodes if all live.
    """
    if int(_count.value(connection, endpoint=endpoint_no)) < MAX_NODES:
        return
    query = select(nodes.c.no).where(nodes.c.endpoint_no == endpoint_no, nodes.c.live == 0, unused())
    oldest = query.order_by(nodes.c.seen).limit(EVICTED)
    if not connection.execute(delete(nodes).where(nodes.c.no.in_(oldest))).rowcount:
        raise TooManyNodes(
            f"the endpoint already has {MAX_NODES} live nodes: the report of another is rejected"
        )


def unused() -> ColumnElement[bool]:
    """Return the condition that no bundle is assigned to a node."""
    return ~exists().where(bundles.c.node_no == nodes.c.no)


def _is_old(report: OpenReport, instance: str, incarnation: int, beat: int) -> bool:
    """Return whether a report is older than what is known of its node. 0 stands for unknown."""
    if report.incarnation != incarnation:
        return report.incarnation < incarnation
    if report.instance[:36] != instance:
        return incarnation > 0
    return 0 < report.order <= beat


def _store_packages(connection: Connection, endpoint_no: int, name: str, report: OpenReport) -> None:
    """Store the packages installed on a node, which only its first heartbeats list."""
    packages = report.heartbeat.facts.get("packages") if report.heartbeat is not None else None
    if isinstance(packages, dict):
        text = json.dumps({printable(name): printable(version) or "" for name, version in packages.items()})
        if len(text) <= FACTS_LENGTH:
            _set_packages.run(connection, v_packages=text, endpoint=endpoint_no, node=name)


def _described(report: OpenReport, now: float, *, since: float, slots: int, facts: str) -> dict[str, Any]:
    """Return a report's data about its node as columns; ``slots``, ``facts``: values known before."""
    busy = 0
    if report.heartbeat is not None:
        slots, busy = max(0, int(report.heartbeat.slots)), max(0, int(report.heartbeat.busy))
        facts = json.dumps(known_facts(report.heartbeat.facts))
        facts = facts if len(facts) <= FACTS_LENGTH else "{}"
    live = 0 if report.goodbye else 1
    return {
        "incarnation": report.incarnation,
        "beat": report.order,
        "slots": slots,
        "busy": busy,
        "facts": facts,
        "since": since,
        "seen": now,
        "live": live,
    }


def _record_bundles(
    connection: Connection, endpoint_no: int, no: int, report: OpenReport, now: float
) -> None:
    """Record which bundles are on a node."""
    if report.heartbeat is not None and report.heartbeat.held:
        held = [str(bundle) for bundle in report.heartbeat.held]
        _assign.run(connection, ids=held, endpoint=endpoint_no, node=no, now=now)


def tasks_on_node(connection: Connection, node_no: int) -> list[Task]:
    """Return the unfinished tasks of all bundles on a node."""
    return tasks_in_bundles(connection, [no for (no,) in _assigned.rows(connection, node=node_no)])


def interruption_codes(node: str, left: Iterable[Task]) -> dict[int, str]:
    """Return the interruption codes of a lost node's tasks for ``requeue_lost``; empty for ordinary nodes.

    Nodes of batch jobs are usually lost because the site ends the job, rarely because of a task.
    """
    return {task.no: Interruption.STOPPED for task in left} if names.block_of(node) else {}
