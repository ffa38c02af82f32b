"""One-time codes: each code allows a machine to register one endpoint, and nothing else.

The user's token is therefore not needed on that machine. A code is stored like a token, as its SHA-256 only;
its prefix distinguishes it from a token, and neither is accepted in place of the other.
"""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import insert, select, update

from umbel.protocol.errors import Unauthorized

from ..context import Federation
from ..db.tables import tokens, users
from . import endpoints
from .users import User, digest

PREFIX = "umc_"
SCOPE = "endpoints:register"
#: Default and maximum lifetime of a code, seconds.
DEFAULT_LIFETIME, MAX_LIFETIME = 3600.0, 30 * 86400.0
_INVALID_CODE = (
    "the code is unknown, already used, expired or for another name: create a new one with "
    "'umbel endpoint code NAME'"
)
_t = tokens.c


def create(fed: Federation, user: User, name: str, lifetime: float = DEFAULT_LIFETIME) -> dict[str, Any]:
    """Create a code that registers an endpoint called ``name``; the code cannot be read again."""
    code = PREFIX + secrets.token_urlsafe(32)
    now = fed.clock()
    row = {"user_no": user.no, "sha256": digest(code), "label": _label(name), "created": now, "scope": SCOPE}
    with fed.database.write() as connection:
        connection.execute(insert(tokens).values(**row, expires=now + lifetime))
    return {"code": code, "name": name, "expires": now + lifetime}


def owner(fed: Federation, code: str) -> User:
    """Return the user who created a valid code. Raises Unauthorized."""
    query = select(users.c.no, users.c.id, users.c.name).join(tokens, _t.user_no == users.c.no)
    with fed.database.read() as connection:
        row = connection.execute(query.where(*_valid(fed, code))).first()
    if row is None or not code.startswith(PREFIX):
        raise Unauthorized(_INVALID_CODE)
    return User(*row)


def redeem(fed: Federation, user: User, code: str, *, name: str, **endpoint: Any) -> dict[str, Any]:
    """Register an endpoint for ``user``, the owner of the code; this uses up the code.

    ``endpoint``: arguments of ``endpoints.register``. Raises Unauthorized, and the errors of ``register``,
    after which the code remains valid.
    """
    use = update(tokens).where(*_valid(fed, code), _t.label == _label(name), _t.user_no == user.no)
    with fed.database.write() as connection:
        if connection.execute(use.values(revoked=fed.clock())).rowcount != 1:
            raise Unauthorized(f"endpoint '{name}': {_INVALID_CODE}")
    try:
        return endpoints.register(fed, user, name=name, **endpoint)
    except BaseException:
        with fed.database.write() as connection:
            connection.execute(update(tokens).where(_t.sha256 == digest(code)).values(revoked=None))
        raise


def _valid(fed: Federation, code: str) -> tuple[Any, ...]:
    return _t.sha256 == digest(code), _t.revoked.is_(None), _t.expires > fed.clock()


def _label(name: str) -> str:
    return f"code for endpoint {name}"
