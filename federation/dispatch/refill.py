"""Refills an endpoint's window, inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, literal_column, select, update

from umbel.protocol import names
from umbel.protocol.states import TaskState

from ..context import Federation
from ..db import arrivals, shared
from ..db.options import Options
from ..db.statements import Statement, constant, insert_returning, maker
from ..db.tables import bundles, endpoints, loads, nodes, submissions, tasks, users
from .planning import Plan, QueuedCall, Situation, decide
from .run_times import ByFunction, known_seconds

#: Calls that are read at first, and at most when more are needed.
LOOKAHEAD, MAX_LOOKAHEAD = 256, 8192


class _Call(NamedTuple):
    """The columns of a queued call that planning needs."""

    no: int
    priority: int
    function_no: int
    submission_no: int
    blob_size: int
    id: str
    attempt: int
    blob_no: int
    blob_offset: int


_call = maker(_Call)


class _Endpoint(NamedTuple):
    """An endpoint; ``epoch``: of its keys in the broker."""

    no: int
    id: str
    epoch: int


_head = Statement(
    lambda d: select(*[tasks.c[name] for name in _Call._fields])
    .where(
        tasks.c.endpoint_no == bindparam("endpoint"),
        tasks.c.user_no == bindparam("user"),
        tasks.c.state == constant(TaskState.QUEUED.value),
        # calls wider than every live node stay queued and do not block others
        tasks.c.cores <= bindparam("largest"),
    )
    .order_by(tasks.c.priority.desc(), tasks.c.no)
    .limit(bindparam("lookahead"))
)
_slots = Statement(
    lambda d: select(func.sum(nodes.c.slots), func.max(nodes.c.slots)).where(
        nodes.c.endpoint_no == bindparam("endpoint"), nodes.c.live == literal_column("1")
    )
)
_waiting = Statement(
    lambda d: select(loads.c.user_no, loads.c.live, loads.c.sent, loads.c.occupied)
    .where(loads.c.endpoint_no == bindparam("endpoint"), loads.c.live > 0)
    .order_by(loads.c.user_no)
)
_options = Statement(
    lambda d: select(submissions.c.no, submissions.c.options).where(d.among(submissions.c.no, "nos"))
)
_endpoint = Statement(
    lambda d: select(endpoints.c.id, endpoints.c.epoch, endpoints.c.last_user_no).where(
        endpoints.c.no == bindparam("endpoint")
    )
)
_user_names = Statement(lambda d: select(users.c.no, users.c.name).where(d.among(users.c.no, "nos")))
_turn = Statement(
    lambda d: update(endpoints)
    .values(last_user_no=bindparam("user"))
    .where(endpoints.c.no == bindparam("endpoint"))
)
_add_bundle = insert_returning(
    bundles, "id", "endpoint_no", "function_no", "size", "open", "cores", "sent", "epoch"
)
_dispatch = Statement(
    lambda d: update(tasks)
    .values(
        state=TaskState.DISPATCHED.value,
        attempt=tasks.c.attempt + 1,
        bundle_no=bindparam("bundle"),
        dispatched=bindparam("now"),
    )
    .where(d.among(tasks.c.no, "nos"))
)


@dataclass(frozen=True)
class PlannedBundle:
    """A bundle that is recorded as sent in the ledger and must now be sent.

    ``epoch``: of its endpoint. ``calls``: rows (task id, attempt, blob number, offset, size). ``seconds``:
    expected run time of one call, 0.0 if unknown.
    """

    bundle_id: str
    endpoint_id: str
    epoch: int
    function_no: int
    user: str
    options: str
    calls: list[tuple[str, int, int, int, int]]
    seconds: float = 0.0


def refill(
    fed: Federation,
    connection: Connection,
    endpoint_no: int,
    now: float,
    arrival: arrivals.Arrival | None = None,
) -> list[PlannedBundle]:
    """Mark as many calls of an endpoint as dispatched as fit into its window; return the bundles to send.

    The caller has the endpoint's lock. After its transaction is committed, it sends the bundles and calls
    ``catch_up``. ``arrival``: calls that this transaction has stored and not counted.
    """
    arrivals.count(connection, endpoint_no, arrival)
    live, situation = _situation(fed, connection, endpoint_no)
    if situation is None:
        return []
    endpoint_id, epoch, last_user = _endpoint.rows(connection, endpoint=endpoint_no)[0]
    turns = _turns(live, last_user or 0)[: situation.room]
    plans, seen = _plan(connection, endpoint_no, situation, turns)
    if not plans:
        return []
    if len(live) > 1:
        _turn.run(connection, user=plans[-1].user, endpoint=endpoint_no)
    return _record(connection, _Endpoint(endpoint_no, endpoint_id, epoch), plans, seen, now)


def _situation(
    fed: Federation, connection: Connection, endpoint_no: int
) -> tuple[list[int], Situation | None]:
    """Return the users with unfinished tasks, and the situation, or None if there is nothing to send."""
    live = _waiting.rows(connection, endpoint=endpoint_no)
    if not live:
        return [], None
    _, counts, sent, occupied = map(sum, zip(*live))
    slots, largest = _slots.rows(connection, endpoint=endpoint_no)[0]
    situation = Situation(
        slots=int(slots or 1),
        open=occupied,
        queued=counts - sent,
        seconds={},
        window=fed.settings.window,
        bundle_seconds=fed.settings.bundle_seconds,
        largest=largest or 1,
    )
    can_send = situation.queued > 0 and situation.room > 0
    return [user for user, *_ in live], situation if can_send else None


def _turns(waiting: list[int], last: int) -> list[int]:
    """Order the users with work, starting after the one that was served last."""
    return [user for user in waiting if user > last] + [user for user in waiting if user <= last]


@dataclass(frozen=True)
class _QueueHeads:
    """The first calls of each user's queue.

    ``calls``: by number; ``options``: by submission number; ``cores``: slots of kinds that occupy several;
    ``seconds``: run times by function number.
    """

    queues: list[tuple[int, list[QueuedCall]]]
    calls: dict[int, _Call]
    options: dict[int, str]
    cores: dict[Hashable, int]
    seconds: dict[int, float]


def _plan(
    connection: Connection, endpoint_no: int, situation: Situation, turns: Sequence[int]
) -> tuple[list[Plan], _QueueHeads]:
    """Plan bundles from the first calls of each queue; read more calls if the plans use up all of them."""
    lookahead = LOOKAHEAD
    while True:
        seen = _read_heads(
            connection, endpoint_no, turns, max(16, lookahead // len(turns)), situation.largest
        )
        current = replace(situation, seconds=ByFunction(seen.seconds), cores=seen.cores)
        plans = decide(seen.queues, current)
        planned = sum(len(plan.nos) for plan in plans)
        if (
            not plans
            or planned < len(seen.calls)
            or planned >= situation.queued
            or lookahead >= MAX_LOOKAHEAD
        ):
            return plans, seen
        # enough calls to fill the room with bundles of the kinds read so far, plus some of other kinds
        sizes = [current.calls(plan.kind, situation.queued) for plan in plans]
        lookahead = min(MAX_LOOKAHEAD, max(2 * lookahead, situation.room * max(sizes) + LOOKAHEAD))


def _read_heads(
    connection: Connection, endpoint_no: int, turns: Sequence[int], lookahead: int, largest: int
) -> _QueueHeads:
    heads: dict[int, list[_Call]] = {}
    for user in turns:
        found = _head.rows(connection, endpoint=endpoint_no, user=user, lookahead=lookahead, largest=largest)
        heads[user] = list(map(_call, found))
    submissions = sorted({call.submission_no for head in heads.values() for call in head})
    options = dict(_options.rows(connection, nos=submissions)) if submissions else {}
    widths = {no: width for no in submissions if (width := Options.from_json(options[no]).cores) > 1}
    kinds: dict[tuple[int, int], Hashable] = {}
    cores: dict[Hashable, int] = {}
    queues = []
    for user, head in heads.items():
        queue = []
        for call in head:
            key = call[2:4]
            kind = kinds.get(key)
            if kind is None:
                kind = kinds[key] = (call.function_no, options[call.submission_no])
                if call.submission_no in widths:
                    cores[kind] = widths[call.submission_no]
            queue.append(QueuedCall(call[0], call[1], kind, call[4]))
        queues.append((user, queue))
    calls = {call[0]: call for head in heads.values() for call in head}
    functions = sorted({call[2] for call in calls.values()})
    return _QueueHeads(queues, calls, options, cores, known_seconds(connection, endpoint_no, functions))


def _record(
    connection: Connection, endpoint: _Endpoint, plans: list[Plan], seen: _QueueHeads, now: float
) -> list[PlannedBundle]:
    """Record the planned bundles in the ledger."""
    user_names = dict(_user_names.rows(connection, nos=sorted({plan.user for plan in plans})))
    planned = []
    for plan in plans:
        calls = [seen.calls[no] for no in plan.nos]
        first = calls[0]
        bundle_id = names.new_id()
        bundle_no = _add_bundle.value(
            connection,
            id=bundle_id,
            endpoint_no=endpoint.no,
            function_no=first.function_no,
            size=len(calls),
            open=len(calls),
            cores=seen.cores.get(plan.kind, 1),
            sent=now,
            epoch=endpoint.epoch,
        )
        _dispatch.run(connection, nos=plan.nos, bundle=bundle_no, now=now)
        planned.append(
            PlannedBundle(
                bundle_id=bundle_id,
                endpoint_id=endpoint.id,
                epoch=endpoint.epoch,
                function_no=first.function_no,
                user=user_names[plan.user],
                options=seen.options[first.submission_no],
                calls=[(c.id, c.attempt + 1, c.blob_no, c.blob_offset, c.blob_size) for c in calls],
                seconds=seen.seconds.get(first.function_no, 0.0),
            )
        )
    _add_to_loads(connection, endpoint.no, plans, seen.cores)
    return planned


def _add_to_loads(
    connection: Connection, endpoint_no: int, plans: list[Plan], cores: Mapping[Hashable, int]
) -> None:
    """Add the planned bundles to the running totals."""
    totals: dict[tuple[int, int], shared.Load] = {}
    for plan in plans:
        load = totals.get((endpoint_no, plan.user), shared.Load())
        totals[endpoint_no, plan.user] = load._replace(
            sent=load.sent + len(plan.nos), occupied=load.occupied + cores.get(plan.kind, 1)
        )
    shared.change_loads(connection, totals)
