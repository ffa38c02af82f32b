"""Many users, endpoints, finished and waiting tasks, written into the ledger of a stopped service."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.old_tasks import Owner, add_group, template
from federation.registry.users import TOKEN_PREFIX, digest
from umbel.protocol import names

#: Tasks of one group.
PER_GROUP = 2_000


class Sizes(NamedTuple):
    """How many of each are added."""

    users: int
    endpoints: int
    finished: int
    waiting: int


class Account(NamedTuple):
    """A user that was added: token, one of their endpoints, and a group with waiting tasks (or "")."""

    token: str
    endpoint_id: str
    group_id: str


def fill(ledger: Path, sizes: Sizes) -> list[Account]:
    """Add rows to a ledger with a finished task, which is copied; return the users' accounts."""
    with closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA cache_size=-500000")
        connection.execute("BEGIN IMMEDIATE")
        accounts = _Filler(connection, sizes).fill()
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("ANALYZE")
    return accounts


class _Filler:
    def __init__(self, connection: sqlite3.Connection, sizes: Sizes):
        self._connection, self._sizes = connection, sizes
        self._task_no = template(connection)
        self._now = time.time()

    def fill(self) -> list[Account]:
        tokens = [TOKEN_PREFIX + secrets.token_urlsafe(32) for _ in range(self._sizes.users)]
        users = self._users(tokens)
        endpoints = self._endpoints(users)
        owners = [Owner(user, no) for user, (no, _) in zip(users, endpoints)]
        self._groups(owners, self._sizes.finished, waiting=False)
        groups = self._groups(owners, self._sizes.waiting, waiting=True)
        return [
            Account(token, id, groups.get(user, "")) for token, user, (_, id) in zip(tokens, users, endpoints)
        ]

    def _users(self, tokens: Sequence[str]) -> list[int]:
        first = self._first("users")
        nos = [first + number for number in range(len(tokens))]
        self._insert(
            "users",
            ({"no": no, "id": names.new_id(), "name": f"crowd{no}", "created": self._now} for no in nos),
        )
        self._insert(
            "tokens",
            (
                {"user_no": no, "sha256": digest(token), "label": "benchmark", "created": self._now}
                for no, token in zip(nos, tokens)
            ),
        )
        return nos

    def _endpoints(self, users: Sequence[int]) -> list[tuple[int, str]]:
        """Add endpoints of the users in turn; return number and id of each."""
        first = self._first("endpoints")
        found = [(first + number, names.new_id()) for number in range(self._sizes.endpoints)]
        rest = {"public_key": bytes(32), "metadata": json.dumps({}), "created": self._now}
        self._insert(
            "endpoints",
            (
                {
                    **{"no": no, "id": id, "name": f"e{no}", "user_no": users[number % len(users)]},
                    **{"broker_sha256": f"{no:064x}", **rest},
                }
                for number, (no, id) in enumerate(found)
            ),
        )
        return found

    def _groups(self, owners: Sequence[Owner], count: int, *, waiting: bool) -> dict[int, str]:
        """Add copies of the task for the owners in turn; return the last group of each user."""
        size = min(PER_GROUP, -(-count // len(owners)))
        found: dict[int, str] = {}
        for number, begin in enumerate(range(0, count, size)):
            owner, many = owners[number % len(owners)], min(size, count - begin)
            no = add_group(self._connection, self._task_no, begin, many, owner, waiting=waiting)
            query = "SELECT id FROM groups WHERE no = ?"
            found[owner.user_no] = str(self._connection.execute(query, (no,)).fetchone()[0])
            if waiting:
                self._connection.execute(
                    "INSERT INTO loads (endpoint_no, user_no, live) VALUES (?, ?, ?) "
                    "ON CONFLICT (endpoint_no, user_no) DO UPDATE SET live = live + excluded.live",
                    (owner.endpoint_no, owner.user_no, many),
                )
        return found

    def _first(self, table: str) -> int:
        return int(self._connection.execute(f"SELECT coalesce(max(no), 0) + 1 FROM {table}").fetchone()[0])

    def _insert(self, table: str, rows: Iterable[dict[str, Any]]) -> None:
        rows = list(rows)
        columns = ", ".join(rows[0])
        places = ", ".join(f":{name}" for name in rows[0])
        self._connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)
