"""Back-pressure: limits of the unfinished tasks of an endpoint and of a user."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, func, select

from umbel.protocol.errors import TooMany

from ..context import Federation
from ..db import arrivals, shared, tables
from ..db.statements import Statement
from ..db.tables import loads
from ..registry.users import User

#: Time after which to submit again when a queue is full, seconds.
RETRY_AFTER = 1.0


def _live(column: str) -> Statement:
    return Statement(
        lambda d: select(
            func.coalesce(func.sum(loads.c.live), 0)
            + arrivals.uncounted(d, tables.arrivals.c[column] == bindparam("no"))
        ).where(loads.c[column] == bindparam("no"))
    )


_endpoint_live, _user_live = _live("endpoint_no"), _live("user_no")


def check_limits(connection: Connection, fed: Federation, user: User, endpoint_no: int) -> None:
    """Enforce the limits on unfinished tasks per endpoint and per user. Raises TooMany (``QUEUE_FULL``).

    Submissions beyond half of a limit wait for each other, so that those accepted at the same time do not
    exceed it together.
    """
    settings = fed.settings
    for limit, count, no, kind, owner in (
        (settings.max_endpoint_calls, _endpoint_live, endpoint_no, "endpoint", "this endpoint has"),
        (settings.max_user_calls, _user_live, user.no, "user", "you have"),
    ):
        live = count.value(connection, no=no)
        if live >= limit / 2 and shared.lock_limit(connection, kind, no):
            live = count.value(connection, no=no)
        if live >= limit:
            raise TooMany(
                f"{owner} {live} unfinished tasks, the limit is {limit}: submit again after some finish",
                code="QUEUE_FULL",
                details={"live": live, "limit": limit, "retry_after": RETRY_AFTER},
            )
