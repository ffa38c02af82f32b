"""Worker nodes: heard of through heartbeats, given up after silence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select, update

from umbel.protocol.messages import OpenReport

from .. import rows
from ..tables import bundles, nodes, tasks
from .requeue import COLUMNS

#: Longest name of a node, and longest description of it as JSON.
NAME_LENGTH, FACTS_LENGTH = 128, 16384


def hear(
    connection: Connection, endpoint_no: int, report: OpenReport, now: float
) -> tuple[int, Sequence[Any]]:
    """Note that a node has spoken; return its number and the tasks that its death or goodbye left behind.

    A new instance of a node that was live means that the old one is dead: what it held goes back.
    """
    name = report.node[:NAME_LENGTH]
    query = select(nodes.c.no, nodes.c.instance, nodes.c.live).where(
        nodes.c.endpoint_no == endpoint_no, nodes.c.name == name
    )
    node = connection.execute(query).first()
    if node is None:
        values = {"endpoint_no": endpoint_no, "name": name, **_values(report, now), "since": now}
        node_no = rows.insert_one(connection, nodes, values)
        _hold(connection, endpoint_no, node_no, report, now)
        return node_no, ()
    if node.instance != report.instance and report.heartbeat is None:
        return node.no, ()  # a late word of an instance that is gone
    left: Sequence[Any] = ()
    if report.heartbeat is not None or report.goodbye:
        values = _values(report, now)
        if node.instance != report.instance:
            values["since"] = now
            left = held_tasks(connection, node.no)
        if report.goodbye:
            left = held_tasks(connection, node.no)
        connection.execute(update(nodes).where(nodes.c.no == node.no).values(**values))
        _hold(connection, endpoint_no, node.no, report, now)
    return node.no, left


def _values(report: OpenReport, now: float) -> dict[str, Any]:
    beat = report.heartbeat
    values: dict[str, Any] = {
        "instance": report.instance[:36],
        "seen": now,
        "live": 0 if report.goodbye else 1,
    }
    if beat is not None:
        facts = json.dumps(beat.facts)
        values.update(
            slots=max(0, int(beat.slots)),
            busy=max(0, int(beat.busy)),
            facts=facts if len(facts) <= FACTS_LENGTH else "{}",
        )
    elif not report.goodbye:
        values.update(slots=0, busy=0)
    else:
        values.update(busy=0)
    return values


def _hold(connection: Connection, endpoint_no: int, node_no: int, report: OpenReport, now: float) -> None:
    """Note which bundles a node has in its hands."""
    if report.heartbeat is None or not report.heartbeat.held:
        return
    held = [str(bundle) for bundle in report.heartbeat.held]
    connection.execute(
        update(bundles)
        .where(rows.among(connection, bundles.c.id, held), bundles.c.endpoint_no == endpoint_no)
        .values(node_no=node_no, held=now)
    )


def held_tasks(connection: Connection, node_no: int) -> Sequence[Any]:
    """The unfinished tasks of all bundles that a node holds."""
    held = select(bundles.c.no).where(bundles.c.node_no == node_no)
    return connection.execute(select(*COLUMNS).where(tasks.c.bundle_no.in_(held))).all()
