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

from sqlalchemy import ColumnElement, Connection, bindparam, exists, insert, or_, select

from umbel.protocol import names
from umbel.protocol.errors import BadRequest, Unauthorized

from ..context import Federation
from ..db.statements import Statement
from ..db.tables import bundles, tasks, tokens, users

TOKEN_PREFIX = "umb_"
TOKEN_LENGTH = len(TOKEN_PREFIX) + 43
MAX_NAME = 64
MAX_LABEL = 128


class User(NamedTuple):
    """A registered user. ``no``: row number, used in joins; ``id``: the public id.

    ``scope``: words for what the present token may be used for, None: everything. ``task_id``: the task whose
    call uses it, which sees only what it has submitted itself.
    """

    no: int
    id: str
    name: str
    scope: str | None = None
    task_id: str | None = None

    def may(self, verb: str) -> bool:
        """Return whether the scope of the token has a word."""
        return self.scope is None or verb in self.scope.split()


def has_access(user_no: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that a user has a full token that is not revoked; it may have expired."""
    full = tokens.alias("full_tokens").c
    return exists().where(full.user_no == user_no, full.scope.is_(None), full.revoked.is_(None))


_by_token = Statement(
    lambda d: select(
        users.c.no, users.c.id, users.c.name, tokens.c.scope, tokens.c.task_id, tokens.c.bundle_id
    )
    .join(tokens, tokens.c.user_no == users.c.no)
    .where(
        tokens.c.sha256 == bindparam("digest"),
        tokens.c.revoked.is_(None),
        or_(tokens.c.expires.is_(None), tokens.c.expires > bindparam("now")),
    )
)
_running = Statement(
    lambda d: select(tasks.c.no)
    .join(bundles, bundles.c.no == tasks.c.bundle_no)
    .where(
        tasks.c.id == bindparam("task"),
        bundles.c.id == bindparam("bundle"),
        has_access(tasks.c.user_no),
    )
)


def authenticate(fed: Federation, token: str) -> User:
    """Return the user of a valid token. Raises Unauthorized."""
    if len(token) == TOKEN_LENGTH and token.startswith(TOKEN_PREFIX):
        with fed.database.read() as connection:
            row = _by_token.first(connection, digest=digest(token), now=fed.clock())
            if row is not None and row[4] is not None:
                _check_running(connection, *row[4:])
        if row is not None:
            return User(*row[:5])
    raise Unauthorized(
        "the token is unknown, expired or revoked: log in again with 'umbel login URL', or ask the "
        "administrator of the service for a new token"
    )


def _check_running(connection: Connection, task_id: str, bundle_id: str) -> None:
    """Raise Unauthorized unless a task runs in a bundle and its user has access."""
    if _running.first(connection, task=task_id, bundle=bundle_id) is None:
        raise Unauthorized(
            f"the token of the call of task '{task_id}' is no longer valid: the task has ended or runs "
            "elsewhere, or all tokens of its user are revoked"
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


def create_token(
    fed: Federation, user: User, label: str, lifetime: float | None = None, **limits: str
) -> str:
    """Create a token for ``user`` and return it; it cannot be read again.

    ``lifetime``: validity in seconds; None: unlimited. ``limits``: ``scope``, ``task_id`` and ``bundle_id``.
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
                **limits,
            )
        )
    return token


def digest(token: str) -> str:
    """Return the SHA-256 under which the database stores a token or code."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
