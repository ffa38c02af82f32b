"""Back-pressure: limits of the unfinished tasks of an endpoint and of a user."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from umbel.protocol.errors import TooMany

from ..context import Federation
from ..db import arrivals, shared, tables
from ..db.statements import Dialect, Statement
from ..db.tables import loads
from ..registry.users import User

#: Time after which to submit again when a queue is full, seconds.
RETRY_AFTER = 1.0


def _live(dialect: Dialect, column: str, number: str) -> Any:
    counted = select(func.coalesce(func.sum(loads.c.live), 0)).where(loads.c[column] == bindparam(number))
    uncounted = arrivals.uncounted(dialect, tables.arrivals.c[column] == bindparam(number))
    return counted.scalar_subquery() + uncounted


_unfinished = Statement(lambda d: select(_live(d, "endpoint_no", "endpoint"), _live(d, "user_no", "user")))


def check_limits(connection: Connection, fed: Federation, user: User, endpoint_no: int) -> None:
    """Enforce the limits on unfinished tasks per endpoint and per user. Raises TooMany (``QUEUE_FULL``).

    Submissions beyond half of a limit wait for each other, so that those accepted at the same time do not
    exceed it together.
    """
    numbers = {"endpoint": endpoint_no, "user": user.no}
    limits = {"endpoint": fed.settings.max_endpoint_calls, "user": fed.settings.max_user_calls}
    live = _unfinished.rows(connection, **numbers)[0]
    near = [kind for kind, count in zip(limits, live) if count >= limits[kind] / 2]
    # in the order of ``limits``, which prevents deadlocks; all of them before the number is read again
    if any([shared.lock_limit(connection, kind, numbers[kind]) for kind in near]):
        live = _unfinished.rows(connection, **numbers)[0]
    for (kind, limit), count in zip(limits.items(), live):
        if count >= limit:
            owner = "this endpoint has" if kind == "endpoint" else "you have"
            raise TooMany(
                f"{owner} {count} unfinished tasks, the limit is {limit}: submit again after some finish",
                code="QUEUE_FULL",
                details={"live": count, "limit": limit, "retry_after": RETRY_AFTER},
            )
