"""Users and their bearer tokens.

A token is ``umb_`` followed by 43 characters that encode 256 random bits; the database stores its SHA-256
only. With so many random bits no slow hash is needed. Each request looks up the token, so a revocation takes
effect at once.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, insert, or_, select

from umbel.protocol import names
from umbel.protocol.errors import BadRequest, Unauthorized

from ..context import Federation
from ..db.statements import Statement
from ..db.tables import tokens, users

TOKEN_PREFIX = "umb_"
TOKEN_LENGTH = len(TOKEN_PREFIX) + 43
MAX_NAME = 64
MAX_LABEL = 128


class User(NamedTuple):
    """A registered user. ``no``: row number, used in joins; ``id``: the public id."""

    no: int
    id: str
    name: str


_by_token = Statement(
    lambda d: select(users.c.no, users.c.id, users.c.name)
    .join(tokens, tokens.c.user_no == users.c.no)
    .where(
        tokens.c.sha256 == bindparam("digest"),
        tokens.c.revoked.is_(None),
        or_(tokens.c.expires.is_(None), tokens.c.expires > bindparam("now")),
    )
)


def authenticate(fed: Federation, token: str) -> User:
    """Return the user of a valid token. Raises Unauthorized."""
    if len(token) == TOKEN_LENGTH and token.startswith(TOKEN_PREFIX):
        with fed.database.read() as connection:
            row = _by_token.first(connection, digest=digest(token), now=fed.clock())
        if row is not None:
            return User(*row)
    raise Unauthorized(
        "the token is unknown, expired or revoked: log in again with 'umbel login URL', or ask the "
        "administrator of the service for a new token"
    )


def ensure_user(fed: Federation, name: str) -> User:
    """Return the user with this name (1 to 64 characters); create it if missing. Raises BadRequest."""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise BadRequest(
            f"user name {name[:80]!r} is invalid: it must have 1 to {MAX_NAME} printable characters"
        )
    return fed.database.retry_write(lambda connection: _ensure(connection, name))


def _ensure(connection: Connection, name: str) -> User:
    row = connection.execute(select(users.c.no, users.c.id, users.c.name).where(users.c.name == name)).first()
    if row is not None:
        return User(*row)
    id = names.new_id()
    new = insert(users).values(id=id, name=name, created=time.time()).returning(users.c.no)
    return User(connection.execute(new).scalar_one(), id, name)


def create_token(fed: Federation, user: User, label: str, lifetime: float | None = None) -> str:
    """Create a token for ``user`` and return it; it cannot be read again.

    ``lifetime``: validity in seconds; None: unlimited.
    """
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    now = fed.clock()
    with fed.database.write() as connection:
        connection.execute(
            insert(tokens).values(
                user_no=user.no,
                sha256=digest(token),
                label=label[:MAX_LABEL],
                created=now,
                expires=None if lifetime is None else now + lifetime,
            )
        )
    return token


def digest(token: str) -> str:
    """Return the SHA-256 under which the database stores a token or code."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
