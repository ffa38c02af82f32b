"""One-time codes: each lets a machine register one endpoint, and nothing else.

So that no token of a person has to be on that machine. A code is kept like a token, by its SHA-256 only, and
its prefix tells it apart: it is never taken for a token, nor a token for a code.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from sqlalchemy import insert, select, update

from umbel.protocol.errors import Unauthorized

from ..context import Federation
from ..db.tables import tokens, users
from . import endpoints
from .users import User, digest

PREFIX = "umc_"
#: Seconds for which a code may be used unless its maker says otherwise, and at most.
LIFETIME, LONGEST = 3600.0, 30 * 86400.0
_REFUSAL = (
    "this code is unknown, used, expired or for another name: make a new one with 'umbel endpoint code NAME'"
)
_t = tokens.c


def create(fed: Federation, user: User, name: str, lifetime: float = LIFETIME) -> dict[str, Any]:
    """Make a code for the registration of an endpoint called ``name``; it is shown this once only."""
    code = PREFIX + secrets.token_urlsafe(32)
    now = time.time()
    row = {"user_no": user.no, "sha256": digest(code), "label": _label(name), "created": now}
    with fed.database.write() as connection:
        connection.execute(insert(tokens).values(**row, expires=now + lifetime))
    return {"code": code, "name": name, "expires": now + lifetime}


def maker(fed: Federation, code: str) -> User:
    """The user who made a code that is still good. Raises Unauthorized."""
    query = select(users.c.no, users.c.id, users.c.name).join(tokens, _t.user_no == users.c.no)
    with fed.database.read() as connection:
        row = connection.execute(query.where(*_good(code))).first()
    if row is None or not code.startswith(PREFIX):
        raise Unauthorized(_REFUSAL)
    return User(*row)


def redeem(fed: Federation, user: User, code: str, *, name: str, **endpoint: Any) -> dict[str, Any]:
    """Register an endpoint for ``user``, the maker of a code, which is used up by that.

    ``endpoint``: as ``endpoints.register`` takes it. Raises Unauthorized, and what ``register`` raises: then
    the code is as good as before.
    """
    use = update(tokens).where(*_good(code), _t.label == _label(name), _t.user_no == user.no)
    with fed.database.write() as connection:
        if connection.execute(use.values(revoked=time.time())).rowcount != 1:
            raise Unauthorized(f"endpoint '{name}': {_REFUSAL}")
    try:
        return endpoints.register(fed, user, name=name, **endpoint)
    except BaseException:
        with fed.database.write() as connection:
            connection.execute(update(tokens).where(_t.sha256 == digest(code)).values(revoked=None))
        raise


def _good(code: str) -> tuple[Any, ...]:
    return _t.sha256 == digest(code), _t.revoked.is_(None), _t.expires > time.time()


def _label(name: str) -> str:
    return f"code for endpoint {name}"
