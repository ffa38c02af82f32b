"""Users and their bearer tokens.

A token is ``umb_`` and 43 characters made of 256 random bits; the database keeps its SHA-256 only. So
much randomness needs no slow hash, and one indexed look-up makes a revoked token useless at once.
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
    """Somebody whom the service knows. ``no`` joins rows, ``id`` is for the outside."""

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
    """Return the user whose valid token this is. Raises Unauthorized."""
    if len(token) == TOKEN_LENGTH and token.startswith(TOKEN_PREFIX):
        with fed.database.read() as connection:
            row = _by_token.first(connection, digest=digest(token), now=time.time())
        if row is not None:
            return User(*row)
    raise Unauthorized("this token is unknown, expired or revoked: ask the service's owner for a new one")


def ensure_user(fed: Federation, name: str) -> User:
    """Return the user of this name (1 to 64 characters), made now if there is none. Raises BadRequest."""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise BadRequest(f"a user's name has 1 to {MAX_NAME} printable characters")
    return fed.database.settle(lambda connection: _ensure(connection, name))


def _ensure(connection: Connection, name: str) -> User:
    row = connection.execute(select(users.c.no, users.c.id, users.c.name).where(users.c.name == name)).first()
    if row is not None:
        return User(*row)
    id = names.new_id()
    new = insert(users).values(id=id, name=name, created=time.time()).returning(users.c.no)
    return User(connection.execute(new).scalar_one(), id, name)


def create_token(fed: Federation, user: User, label: str, lifetime: float | None = None) -> str:
    """Make a token for ``user`` and return it: it can never be read again.

    ``lifetime``: seconds after which it stops working; None: never.
    """
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    now = time.time()
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
    """What the database keeps of a token or a code."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
