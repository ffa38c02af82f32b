"""Refills an endpoint's window, inside the caller's transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, literal_column, select, update

from umbel.protocol import names
from umbel.protocol.states import TaskState

from ..context import Federation
from ..db import arrivals, shared
from ..db.statements import Statement, insert_returning
from ..db.tables import bundles, endpoints, loads, nodes, tasks, users
from .heads import HeadReader, QueueHeads, Turn, small_groups
from .planning import Plan, Situation, decide
from .run_times import ByFunction

#: Calls that are read at first, and at most when more are needed.
LOOKAHEAD, MAX_LOOKAHEAD = 256, 8192


class _Endpoint(NamedTuple):
    """An endpoint; ``epoch``: of its keys in the broker."""

    no: int
    id: str
    epoch: int


_slots = Statement(
    lambda d: select(func.sum(nodes.c.slots), func.max(nodes.c.slots)).where(
        nodes.c.endpoint_no == bindparam("endpoint"), nodes.c.live == literal_column("1")
    )
)
_waiting = Statement(
    lambda d: select(
        *(loads.c.user_no, loads.c.last_group_no, loads.c.last_priority),
        *(loads.c.live, loads.c.sent, loads.c.occupied),
    )
    .where(loads.c.endpoint_no == bindparam("endpoint"), loads.c.live > 0)
    .order_by(loads.c.user_no)
)
_endpoint = Statement(
    lambda d: select(endpoints.c.id, endpoints.c.epoch, endpoints.c.last_user_no, endpoints.c.credit).where(
        endpoints.c.no == bindparam("endpoint")
    )
)
_user_names = Statement(lambda d: select(users.c.no, users.c.name).where(d.among(users.c.no, "nos")))
_turn = Statement(
    lambda d: update(endpoints)
    .values(last_user_no=bindparam("user"), credit=bindparam("credit"))
    .where(endpoints.c.no == bindparam("endpoint"))
)
_GROUP_TURN = ("last_group", "last_priority", "endpoint", "user")
_group_turn = Statement(
    lambda d: update(loads)
    .values(last_group_no=bindparam("last_group"), last_priority=bindparam("last_priority"))
    .where(loads.c.endpoint_no == bindparam("endpoint"), loads.c.user_no == bindparam("user"))
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
    expected run time of one call, 0.0 if unknown. ``passes``: it runs before the bundles that wait at the
    endpoint.
    """

    bundle_id: str
    endpoint_id: str
    epoch: int
    function_no: int
    user: str
    options: str
    calls: list[tuple[str, int, int, int, int]]
    seconds: float = 0.0
    passes: bool = False


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
    arrived = arrivals.count(connection, endpoint_no, arrival)
    waiting, situation = _situation(fed, connection, endpoint_no)
    if situation is None:
        return []
    small = small_groups(waiting, arrived)
    if not situation.room and not small:
        return []
    endpoint_id, epoch, last_user, credit = _endpoint.rows(connection, endpoint=endpoint_no)[0]
    situation = replace(situation, credit=credit)
    if not situation.room and not credit:
        return []
    turns = _turns(waiting, last_user or 0)[: situation.room]
    plans, left, seen = _plan(connection, endpoint_no, situation, turns, small)
    if not plans:
        return []
    last = _remember_turns(connection, endpoint_no, plans, seen, waiting) or last_user
    if left != credit or (last != last_user and len(waiting) > 1):
        _turn.run(connection, user=last, credit=left, endpoint=endpoint_no)
    return _record(connection, _Endpoint(endpoint_no, endpoint_id, epoch), plans, seen, now)


def _situation(
    fed: Federation, connection: Connection, endpoint_no: int
) -> tuple[list[Turn], Situation | None]:
    """Return the users with unfinished tasks, and the situation, or None if there is nothing to send."""
    loaded = _waiting.rows(connection, endpoint=endpoint_no)
    if not loaded:
        return [], None
    _, _, _, counts, sent, occupied = map(sum, zip(*loaded))
    if counts <= sent:
        return [], None
    slots, largest = _slots.rows(connection, endpoint=endpoint_no)[0]
    slots = int(slots or 1)
    situation = Situation(
        slots=slots,
        open=occupied,
        queued=counts - sent,
        seconds={},
        window=fed.settings.window,
        bundle_seconds=fed.settings.bundle_seconds,
        largest=largest or 1,
    )
    # a user whose calls are all in bundles has no turn
    turns = [
        Turn(user, last_group, last_priority if sent else None)
        for user, last_group, last_priority, live, sent, _ in loaded
        if live > sent
    ]
    return turns, situation


def _turns(waiting: list[Turn], last: int) -> list[Turn]:
    """Order the users with work, starting after the one that was served last."""
    return [turn for turn in waiting if turn.user > last] + [turn for turn in waiting if turn.user <= last]


def _plan(
    connection: Connection,
    endpoint_no: int,
    situation: Situation,
    turns: Sequence[Turn],
    small: Sequence[tuple[Turn, arrivals.Arrival]],
) -> tuple[list[Plan], int, QueueHeads]:
    """Plan bundles from the first calls of each queue, as long as the plans use up what was read.

    Return the plans, the credit that is left, and the calls.
    """
    lookahead = LOOKAHEAD
    # with a slot for every call there is nothing to pass
    if not situation.credit or situation.open + situation.queued <= situation.slots:
        small = []
    known = {turn.user: turn for turn in [*turns, *(turn for turn, _ in small)]}
    priorities = {user: turn.priority for user, turn in known.items() if turn.priority is not None}
    situation = replace(situation, priorities=priorities)
    where = connection, endpoint_no, situation.largest
    reader = HeadReader(*where, turns, small, groups=situation.room)
    while True:
        seen = reader.read(lookahead)
        current = replace(situation, seconds=ByFunction(seen.seconds), cores=seen.cores, idle=seen.idle)
        plans, credit = decide(seen.queues, current)
        if lookahead >= MAX_LOOKAHEAD or not _used_up(plans, seen):
            return plans, credit, seen
        # enough calls to fill the room with bundles of the kinds read so far, plus some of other kinds
        sizes = [current.calls(plan.kind, situation.queued) for plan in plans]
        lookahead = min(MAX_LOOKAHEAD, max(2 * lookahead, situation.room * max(sizes) + LOOKAHEAD))


def _used_up(plans: Sequence[Plan], seen: QueueHeads) -> bool:
    """Return whether no call is left of a user or group of which more calls can be read."""
    planned = [seen.calls[no] for plan in plans for no in plan.nos]
    if not planned or not seen.partial:
        return False
    sent = Counter((plan.user, seen.calls[no].group_no) for plan in plans for no in plan.nos)
    for user, queue in seen.queues:
        if user in seen.partial:
            groups = Counter((user, call.group) for call in queue)
            left = {pair for pair, count in groups.items() if count > sent[pair]}
            if not left or any(pair in sent and pair not in left for pair in groups.keys() & seen.cut):
                return True
    return False


def _remember_turns(
    connection: Connection,
    endpoint_no: int,
    plans: Sequence[Plan],
    seen: QueueHeads,
    turns: Sequence[Turn],
) -> int | None:
    """Record whose groups' turns were last; return the user whose turn was last. To pass is no turn."""
    regular = [plan for plan in plans if not plan.passes]
    if not regular:
        return None
    last = {plan.user: plan for plan in regular}
    first = {plan.user: plan for plan in reversed(regular)}
    known = {turn.user: turn for turn in turns}
    changed = []
    for user, queue in seen.queues:
        if user not in last:
            continue
        lowest, highest = (seen.calls[plan.nos[0]].priority for plan in (last[user], first[user]))
        # groups of other priorities do not lose their turns when there was nothing to choose
        several = len({call.group for call in queue if call.priority == lowest}) > 1
        several |= user in seen.partial and lowest == min(call.priority for call in queue)
        group = last[user].group if several else known[user].last_group
        if (group, highest) != (known[user].last_group, known[user].priority or 0):
            changed.append((group, highest, endpoint_no, user))
    _group_turn.each(connection, _GROUP_TURN, changed)
    return regular[-1].user


def _record(
    connection: Connection, endpoint: _Endpoint, plans: list[Plan], seen: QueueHeads, now: float
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
                passes=plan.passes,
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
