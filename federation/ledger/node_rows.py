"""Rows of worker nodes, from their descriptions and beats in the broker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, insert, literal_column, select, update

from umbel.protocol import names
from umbel.protocol.messages import Interruption
from umbel.protocol.node_state import Beat, NodeState

from ..db.statements import Statement
from ..db.tables import nodes
from .node_facts import known_facts, printable
from .task_rows import Task

#: Maximum length of a node's name, and of its facts as JSON, characters.
NAME_LENGTH, FACTS_LENGTH = 128, 16384
#: Maximum rows of one endpoint, and how many of its oldest dead nodes are deleted at once to make room.
MAX_NODES, EVICTED = 20_000, 100


class TooManyNodes(Exception):
    """A description or report of a new node of an endpoint that has as many nodes as it may have."""


class NodeRow(NamedTuple):
    """What decisions about nodes depend on."""

    no: int
    name: str
    instance: str
    incarnation: int
    version: int
    live: int


class Standing(Enum):
    """What the ledger knows of an instance."""

    CURRENT = "current"  # the live instance of its node
    NEW = "new"  # not in the ledger yet
    ENDED = "ended"  # its node was lost, shut down, or is run by a later instance


_FIELDS: tuple[str, ...] = (
    *("instance", "incarnation", "version", "slots", "busy", "facts", "vitals", "packages"),
    *("since", "seen", "live", "lost"),
)
#: The row of a node, if this instance is still the live one.
_LIVE = (
    nodes.c.no == bindparam("v_no"),
    nodes.c.instance == bindparam("v_instance"),
    nodes.c.live == literal_column("1"),
)
_rows = Statement(
    lambda d: select(*(nodes.c[name] for name in NodeRow._fields)).where(
        nodes.c.endpoint_no == bindparam("endpoint"), d.among(nodes.c.name, "names")
    )
)
_find = Statement(
    lambda d: select(*(nodes.c[name] for name in (*NodeRow._fields, "since", "lost"))).where(
        nodes.c.endpoint_no == bindparam("endpoint"), nodes.c.name == bindparam("node")
    )
)
_add = Statement(lambda d: insert(nodes).returning(nodes.c.no), ("endpoint_no", "name", *_FIELDS))
_update = Statement(
    lambda d: update(nodes)
    .values({name: bindparam("v_" + name) for name in _FIELDS})
    .where(nodes.c.no == bindparam("v_no"))
)
_beat = Statement(
    lambda d: update(nodes)
    .values(busy=bindparam("v_busy"), vitals=bindparam("v_vitals"), seen=bindparam("v_seen"))
    .where(*_LIVE)
)
_end = Statement(
    lambda d: update(nodes)
    .values(live=0, busy=0, lost=bindparam("v_lost"))
    .where(*_LIVE)
    .returning(nodes.c.no)
)
_leave = Statement(
    lambda d: update(nodes)
    .values(live=0, busy=0, seen=bindparam("v_now"))
    .where(
        nodes.c.endpoint_no == bindparam("v_endpoint"),
        nodes.c.name == bindparam("v_node"),
        nodes.c.instance == bindparam("v_instance"),
    )
)
_count = Statement(
    lambda d: select(func.count()).select_from(nodes).where(nodes.c.endpoint_no == bindparam("endpoint"))
)
_last_loss = Statement(
    lambda d: select(func.coalesce(func.max(nodes.c.lost), 0.0)).where(
        nodes.c.endpoint_no == bindparam("endpoint")
    )
)


def standing(state: NodeState, row: NodeRow | None) -> Standing:
    """Return what the ledger knows of an instance, given the row of its node."""
    if row is None:
        return Standing.NEW
    if row.instance == state.instance:
        return Standing.CURRENT if row.live else Standing.ENDED
    return Standing.NEW if state.incarnation > row.incarnation else Standing.ENDED


def rows_of(connection: Connection, endpoint_no: int, node_names: Iterable[str]) -> dict[str, NodeRow]:
    """Return the rows of nodes by name."""
    found = _rows.rows(connection, endpoint=endpoint_no, names=sorted(set(node_names)))
    return {row.name: row for row in map(NodeRow._make, found)}


def live_instances(connection: Connection, endpoint_no: int) -> list[NodeRow]:
    """Return the nodes of an endpoint that are considered live."""
    columns = (nodes.c[name] for name in NodeRow._fields)
    query = select(*columns).where(nodes.c.endpoint_no == endpoint_no, nodes.c.live == 1)
    return [NodeRow(*row) for row in connection.execute(query)]


def record_description(
    connection: Connection, endpoint_no: int, state: NodeState, beat: Beat, now: float
) -> bool:
    """Record a node's description; return whether the instance is now the live one of its node.

    A description of an earlier run changes nothing. The instance that a later one replaces has ended without
    goodbye, unless it was not live any more.
    """
    found = _find.first(connection, endpoint=endpoint_no, node=state.node)
    if found is None:
        _make_room(connection, endpoint_no)
        values = _described(state, beat, since=now, seen=now, lost=0.0)
        _add.value(connection, endpoint_no=endpoint_no, name=state.node, **values)
        return True
    *columns, since, lost = found
    row = NodeRow(*columns)
    same = row.instance == state.instance
    if not same and state.incarnation <= row.incarnation:
        return False
    if not same:
        since, lost = now, now if row.live else lost
    values = _described(state, beat, since=since, seen=now, lost=lost)
    _update.run(connection, v_no=row.no, **{"v_" + name: value for name, value in values.items()})
    return True


def record_beats(connection: Connection, beats: Sequence[tuple[int, str, Beat]], now: float) -> None:
    """Record beats of live instances: (number of the node, instance, beat)."""
    rows = [(beat.busy, _vitals(beat), now, no, instance) for no, instance, beat in beats]
    _beat.each(connection, ("v_busy", "v_vitals", "v_seen", "v_no", "v_instance"), rows)


def record_loss(connection: Connection, no: int, instance: str, now: float) -> bool:
    """Record that a live instance has ended without goodbye; return False if it is not the live one."""
    return _end.value(connection, v_no=no, v_instance=instance, v_lost=now) is not None


def record_goodbye(connection: Connection, endpoint_no: int, node: str, instance: str, now: float) -> None:
    """Record that an instance has shut down and reported everything."""
    _leave.run(connection, v_endpoint=endpoint_no, v_node=node, v_instance=instance, v_now=now)


def last_loss(connection: Connection, endpoint_no: int) -> float:
    """Return when an instance of an endpoint last ended without goodbye; 0.0: never."""
    return float(_last_loss.value(connection, endpoint=endpoint_no))


def node_number(connection: Connection, endpoint_no: int, node: str, instance: str, now: float) -> int:
    """Return the number of the node that has sent a report; a node without description gets a row."""
    found = _find.first(connection, endpoint=endpoint_no, node=node[:NAME_LENGTH])
    if found is not None:
        return int(found[0])
    _make_room(connection, endpoint_no)
    unknown = NodeState("", node[:NAME_LENGTH], instance[:36], 0, 0, 0)
    values = _described(unknown, Beat(0, 0), since=now, seen=now, lost=0.0)
    return int(_add.value(connection, endpoint_no=endpoint_no, name=unknown.node, **{**values, "live": 0}))


def interruption_codes(node: str, left: Iterable[Task]) -> dict[int, str]:
    """Return the interruption codes of a lost node's tasks for ``requeue_lost``; empty for ordinary nodes.

    Nodes of batch jobs are usually lost because the site ends the job, rarely because of a task.
    """
    return {task.no: Interruption.STOPPED for task in left} if names.block_of(node) else {}


def _make_room(connection: Connection, endpoint_no: int) -> None:
    """Delete the oldest dead nodes of an endpoint if it has too many rows.

    An endpoint names its nodes itself and could invent any number of them. Raises TooManyNodes if all live.
    """
    if int(_count.value(connection, endpoint=endpoint_no)) < MAX_NODES:
        return
    query = select(nodes.c.no).where(nodes.c.endpoint_no == endpoint_no, nodes.c.live == 0)
    oldest = query.order_by(nodes.c.seen).limit(EVICTED)
    if not connection.execute(delete(nodes).where(nodes.c.no.in_(oldest))).rowcount:
        raise TooManyNodes(
            f"the endpoint already has {MAX_NODES} live nodes: the report of another is rejected"
        )


def _described(state: NodeState, beat: Beat, *, since: float, seen: float, lost: float) -> dict[str, Any]:
    """Return a description as columns."""
    facts = json.dumps(known_facts(state.facts))
    return {
        "instance": state.instance[:36],
        "incarnation": state.incarnation,
        "version": state.version,
        "slots": state.slots,
        "busy": beat.busy,
        "facts": facts if len(facts) <= FACTS_LENGTH else "{}",
        "vitals": _vitals(beat),
        "packages": _packages(state.facts.get("packages")),
        "since": since,
        "seen": seen,
        "live": 1,
        "lost": lost,
    }


def _vitals(beat: Beat) -> str:
    return json.dumps({"queue": beat.queue, "load": beat.load, "clock_ahead": beat.clock_ahead})


def _packages(packages: Any) -> str:
    if not isinstance(packages, dict):
        return "{}"
    text = json.dumps({printable(name): printable(version) or "" for name, version in packages.items()})
    return text if len(text) <= FACTS_LENGTH else "{}"
