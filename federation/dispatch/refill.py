"""Refilling an endpoint's window, inside the transaction of whoever saw the need for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from umbel.protocol import names
from umbel.protocol.states import TaskState

from .. import rows
from ..context import Federation
from ..tables import bundles, endpoints, estimates, loads, nodes, submissions, tasks, users
from .decide import Plan, Situation, Waiting, decide

#: Calls that are looked at first, and when that was not enough.
LOOK, LOOK_FAR = 256, 8192

_QUEUED = rows.constant(TaskState.QUEUED.value)
_columns = (
    tasks.c.no,
    tasks.c.priority,
    tasks.c.function_no,
    tasks.c.submission_no,
    tasks.c.blob_size,
    tasks.c.id,
    tasks.c.attempt,
    tasks.c.blob_no,
    tasks.c.blob_offset,
)
_head = (
    select(*_columns)
    .where(
        tasks.c.endpoint_no == bindparam("endpoint"),
        tasks.c.user_no == bindparam("user"),
        tasks.c.state == _QUEUED,
    )
    .order_by(tasks.c.priority.desc(), tasks.c.no)
    .limit(bindparam("look"))
)
_slots = select(func.coalesce(func.sum(nodes.c.slots), 0)).where(
    nodes.c.endpoint_no == bindparam("endpoint"), nodes.c.live == 1
)
_open = select(func.count(), func.coalesce(func.sum(bundles.c.open), 0)).where(
    bundles.c.endpoint_no == bindparam("endpoint")
)
_loads = (
    select(loads.c.user_no, loads.c.live)
    .where(loads.c.endpoint_no == bindparam("endpoint"), loads.c.live > 0)
    .order_by(loads.c.user_no)
)


@dataclass(frozen=True)
class Planned:
    """A bundle that is in the ledger as sent and now has to be sent.

    ``calls``: rows (task id, attempt, blob number, offset, size).
    """

    bundle_id: str
    endpoint_id: str
    function_no: int
    user: str
    options: str
    calls: list[tuple[str, int, int, int, int]]


def refill(fed: Federation, connection: Connection, endpoint_no: int, now: float) -> list[Planned]:
    """Mark calls of one endpoint as dispatched, as many as its window takes; return what to send.

    The caller holds the endpoint's lock, and sends after its transaction is committed.
    """
    here = {"endpoint": endpoint_no}
    live = [(user, count) for user, count in connection.execute(_loads, here)]
    if not live:
        return []
    open_bundles, open_calls = connection.execute(_open, here).one()
    slots = connection.execute(_slots, here).scalar_one() or 1
    queued = sum(count for _, count in live) - int(open_calls)
    situation = Situation(
        slots=slots,
        open=open_bundles,
        queued=max(queued, 0),
        seconds={},
        window=fed.settings.window,
        bundle_seconds=fed.settings.bundle_seconds,
    )
    if queued <= 0 or not situation.room:
        return []
    turns = _turns(connection, endpoint_no, [user for user, _ in live])[: situation.room]
    for look in (LOOK, LOOK_FAR):
        seen = _look(connection, endpoint_no, turns, max(16, look // len(turns)))
        plans = decide(seen.queues, _with_seconds(connection, situation, endpoint_no, seen.functions))
        planned_calls = sum(len(plan.nos) for plan in plans)
        if planned_calls < seen.count or seen.count >= queued or len(plans) >= situation.room:
            break
    return _record(connection, endpoint_no, plans, seen, now) if plans else []


@dataclass(frozen=True)
class _Seen:
    """The heads of the users' queues. ``rows``: by task number."""

    queues: list[tuple[int, list[Waiting]]]
    rows: dict[int, Any]
    options: dict[int, str]
    functions: set[int]
    count: int


def _turns(connection: Connection, endpoint_no: int, waiting: list[int]) -> list[int]:
    """The users with work, the one after the last served first."""
    if len(waiting) == 1:
        return waiting
    query = select(endpoints.c.last_user_no).where(endpoints.c.no == endpoint_no)
    last = connection.execute(query).scalar() or 0
    return [user for user in waiting if user > last] + [user for user in waiting if user <= last]


def _look(connection: Connection, endpoint_no: int, turns: Sequence[int], look: int) -> _Seen:
    heads = {}
    for user in turns:
        heads[user] = connection.execute(_head, {"endpoint": endpoint_no, "user": user, "look": look}).all()
    wanted = sorted({row[3] for head in heads.values() for row in head})
    options: dict[int, str] = {}
    if wanted:
        query = select(submissions.c.no, submissions.c.options)
        options = {
            no: text
            for no, text in connection.execute(query.where(rows.among(connection, submissions.c.no, wanted)))
        }
    return _Seen(
        queues=[
            (user, [Waiting(row[0], row[1], (row[2], options[row[3]]), row[4]) for row in head])
            for user, head in heads.items()
        ],
        rows={row[0]: row for head in heads.values() for row in head},
        options=options,
        functions={row[2] for head in heads.values() for row in head},
        count=sum(map(len, heads.values())),
    )


def _with_seconds(
    connection: Connection, situation: Situation, endpoint_no: int, functions: set[int]
) -> Situation:
    query = select(estimates.c.function_no, estimates.c.seconds).where(
        estimates.c.endpoint_no == endpoint_no,
        rows.among(connection, estimates.c.function_no, sorted(functions)),
    )
    known = {no: seconds for no, seconds in connection.execute(query)}
    return Situation(
        **{**situation.__dict__, "seconds": _ByFunction(known)},
    )


class _ByFunction(dict[int, float]):
    """Run times by kind, where a kind is (function number, options): the options do not matter."""

    def get(self, kind: Any, default: Any = None) -> Any:
        return super().get(kind[0], default)


def _record(
    connection: Connection, endpoint_no: int, plans: list[Plan], seen: _Seen, now: float
) -> list[Planned]:
    """Write the plans into the ledger."""
    endpoint_id = connection.execute(select(endpoints.c.id).where(endpoints.c.no == endpoint_no)).scalar_one()
    user_query = select(users.c.no, users.c.name)
    user_names = dict(
        connection.execute(
            user_query.where(rows.among(connection, users.c.no, sorted({plan.user for plan in plans})))
        ).all()
    )
    planned = []
    for plan in plans:
        calls = [seen.rows[no] for no in plan.nos]
        bundle_id = names.new_id()
        bundle_no = rows.insert_one(
            connection,
            bundles,
            {
                "id": bundle_id,
                "endpoint_no": endpoint_no,
                "function_no": calls[0][2],
                "size": len(calls),
                "open": len(calls),
                "sent": now,
            },
        )
        connection.execute(
            update(tasks)
            .where(rows.among(connection, tasks.c.no, plan.nos))
            .values(
                state=TaskState.DISPATCHED.value,
                bundle_no=bundle_no,
                dispatched=now,
                attempt=tasks.c.attempt + 1,
            )
        )
        planned.append(
            Planned(
                bundle_id=bundle_id,
                endpoint_id=endpoint_id,
                function_no=calls[0][2],
                user=user_names[plan.user],
                options=seen.options[calls[0][3]],
                calls=[(row[5], row[6] + 1, row[7], row[8], row[4]) for row in calls],
            )
        )
    if len(user_names) > 1 or len(seen.queues) > 1:
        connection.execute(
            update(endpoints).where(endpoints.c.no == endpoint_no).values(last_user_no=plans[-1].user)
        )
    return planned
