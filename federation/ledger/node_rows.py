"""Worker nodes: heard of through heartbeats, given up after silence."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from umbel.protocol import names
from umbel.protocol.messages import Interruption, OpenReport

from ..db.statements import Statement
from ..db.tables import bundles, nodes
from .task_rows import Task, in_bundles

#: Longest name of a node, and longest description of it as JSON.
NAME_LENGTH, FACTS_LENGTH = 128, 16384


_BEAT = ("instance", "slots", "busy", "facts", "since", "seen", "live")
_find = Statement(
    lambda d: select(nodes.c.no, nodes.c.instance, nodes.c.since, nodes.c.slots, nodes.c.facts).where(
        nodes.c.endpoint_no == bindparam("endpoint"), nodes.c.name == bindparam("node")
    )
)
_add = Statement(lambda d: insert(nodes).returning(nodes.c.no), ("endpoint_no", "name", *_BEAT))
_beat = Statement(
    lambda d: update(nodes)
    .values({name: bindparam("v_" + name) for name in _BEAT})
    .where(nodes.c.no == bindparam("v_no"))
)
_introduce = Statement(
    lambda d: update(nodes)
    .values(packages=bindparam("v_packages"))
    .where(nodes.c.endpoint_no == bindparam("endpoint"), nodes.c.name == bindparam("node"))
)
_hold = Statement(
    lambda d: update(bundles)
    .values(node_no=bindparam("node"), held=bindparam("now"))
    .where(d.among(bundles.c.id, "ids"), bundles.c.endpoint_no == bindparam("endpoint"))
)
_held = Statement(lambda d: select(bundles.c.no).where(bundles.c.node_no == bindparam("node")))


def hear(connection: Connection, endpoint_no: int, report: OpenReport, now: float) -> tuple[int, list[Task]]:
    """Note that a node has spoken; return its number and the tasks that its death or goodbye left behind.

    A new instance of a node that was live means that the old one is dead: what it held goes back.
    """
    name = report.node[:NAME_LENGTH]
    instance = report.instance[:36]
    node = _find.first(connection, endpoint=endpoint_no, node=name)
    if node is None:
        beat = _described(report, now, since=now, slots=0, facts="{}")
        no = int(_add.value(connection, endpoint_no=endpoint_no, name=name, instance=instance, **beat))
        _take_packages(connection, endpoint_no, name, report)
        _take_hold(connection, endpoint_no, no, report, now)
        return no, []
    no, known, since, slots, facts = node
    if report.heartbeat is None and not report.goodbye:
        return no, []  # outcomes say nothing of the node, and may be an earlier instance's late word
    if report.goodbye and known != instance:
        return no, []
    left = held_tasks(connection, no) if known != instance or report.goodbye else []
    beat = _described(report, now, since=since if known == instance else now, slots=slots, facts=facts)
    _beat.run(connection, v_no=no, v_instance=instance, **{"v_" + key: value for key, value in beat.items()})
    _take_packages(connection, endpoint_no, name, report)
    _take_hold(connection, endpoint_no, no, report, now)
    return no, left


def _take_packages(connection: Connection, endpoint_no: int, name: str, report: OpenReport) -> None:
    """Keep what is installed on a node, of which only its first heartbeats speak."""
    packages = report.heartbeat.facts.get("packages") if report.heartbeat is not None else None
    if isinstance(packages, dict):
        text = json.dumps({str(name): str(version) for name, version in packages.items()})
        if len(text) <= FACTS_LENGTH:
            _introduce.run(connection, v_packages=text, endpoint=endpoint_no, node=name)


def _described(report: OpenReport, now: float, *, since: float, slots: int, facts: str) -> dict[str, Any]:
    """What a report says of its node, as columns; ``slots`` and ``facts``: what was known before."""
    busy = 0
    if report.heartbeat is not None:
        slots, busy = max(0, int(report.heartbeat.slots)), max(0, int(report.heartbeat.busy))
        facts = json.dumps({k: v for k, v in report.heartbeat.facts.items() if k != "packages"})
        facts = facts if len(facts) <= FACTS_LENGTH else "{}"
    live = 0 if report.goodbye else 1
    return {"slots": slots, "busy": busy, "facts": facts, "since": since, "seen": now, "live": live}


def _take_hold(connection: Connection, endpoint_no: int, no: int, report: OpenReport, now: float) -> None:
    """Note which bundles a node has in its hands."""
    if report.heartbeat is not None and report.heartbeat.held:
        held = [str(bundle) for bundle in report.heartbeat.held]
        _hold.run(connection, ids=held, endpoint=endpoint_no, node=no, now=now)


def held_tasks(connection: Connection, node_no: int) -> list[Task]:
    """The unfinished tasks of all bundles that a node holds."""
    return in_bundles(connection, [no for (no,) in _held.rows(connection, node=node_no)])


def taken_away(node: str, left: Iterable[Task]) -> dict[int, str]:
    """The codes of tasks that a node's death left behind, for ``put_back_lost``: none for ordinary nodes.

    A node of a batch job dies because its site takes it away, far more often than by what it ran.
    """
    return {task.no: Interruption.STOPPED for task in left} if names.block_of(node) else {}
