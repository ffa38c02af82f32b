"""Every test in this directory runs on each database that the ledger supports.

``make test`` has SQLite; ``make e2e`` (UMBEL_E2E=1) has a PostgreSQL server of its own. The broker is a real
redis-server, one for all tests, empty at the start of each.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from federation.db.engine import Database
from tests.support.broker import running_broker
from tests.support.endpoint import FakeEndpoint, FakeNode
from tests.support.ledger import Ledger, open_ledger
from tests.support.postgres import Server, running_server

#: Read once, because the test guards remove UMBEL_ variables.
DATABASES = ["postgresql"] if os.environ.get("UMBEL_E2E") == "1" else ["sqlite"]


@pytest.fixture(scope="session", autouse=True)
def postgresql() -> Iterator[Server | None]:
    """One PostgreSQL server for all tests, with a database "empty" that has the schema.

    Started before the first test, so that none is blamed for the server's processes.
    """
    if "postgresql" not in DATABASES:
        yield None
        return
    with running_server() as server:
        with server.connect() as connection:
            connection.execute("CREATE DATABASE empty")
        database = Database(server.url("empty"))
        database.create()
        database.close()
        yield server


@pytest.fixture(scope="session", autouse=True)
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of one Redis server for all tests. It is started before the first one, like PostgreSQL."""
    with running_broker(tmp_path_factory.mktemp("broker")) as url:
        yield url


@pytest.fixture
def broker_url(redis_url: str) -> str:
    """URL of a Redis server with nothing in it."""
    with redis.Redis.from_url(redis_url) as server:
        server.flushall()
    return redis_url


@pytest.fixture(params=DATABASES)
def bare_database_url(
    request: pytest.FixtureRequest, tmp_path: Path, postgresql: Server | None
) -> Iterator[str]:
    """URL of a new database without tables."""
    if postgresql is None:
        yield f"sqlite:///{tmp_path / 'bare.sqlite'}"
        return
    name = postgresql.new_database()
    yield postgresql.url(name)
    postgresql.drop(name)


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, postgresql: Server | None) -> Iterator[str]:
    """URL of a new database with the schema; empty: SQLite in the home."""
    if postgresql is None:
        yield ""
        return
    name = postgresql.new_database("empty")
    yield postgresql.url(name)
    postgresql.drop(name)


@pytest.fixture
def server_settings() -> dict[str, Any]:
    """Settings that differ from the defaults; parametrize this fixture to override them."""
    return {}


class _Errors(logging.Handler):
    """Keeps logged exceptions: the sweeper and the collector log unexpected errors and continue."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[0]:
            self.found.append(f"{record.name}: {record.getMessage()} ({record.exc_info[0].__name__})")


@pytest.fixture
def logged_errors() -> Iterator[list[str]]:
    """Exceptions that the service logged as errors. A test must clear those that it expects."""
    handler, logger = _Errors(), logging.getLogger("federation")
    logger.addHandler(handler)
    yield handler.found
    logger.removeHandler(handler)
    assert not handler.found, "the service logged unexpected errors"


@pytest.fixture
def ledger(
    tmp_path: Path,
    database_url: str,
    broker_url: str,
    server_settings: dict[str, Any],
    logged_errors: list[str],
) -> Iterator[Ledger]:
    """A ledger on a new database and an empty Redis; logged exceptions fail the test."""
    with open_ledger(tmp_path, database_url=database_url, broker_url=broker_url, **server_settings) as opened:
        yield opened


@pytest.fixture
def lab(ledger: Ledger) -> FakeEndpoint:
    """An endpoint of the ledger's user."""
    return ledger.endpoint("lab")


@pytest.fixture
def node(ledger: Ledger, lab: FakeEndpoint) -> FakeNode:
    """A worker node of that endpoint, registered in the ledger."""
    node = lab.node()
    ledger.collect()
    return node


@pytest.fixture
def database(ledger: Ledger) -> Database:
    """The database of the ledger."""
    return ledger.fed.database


@pytest.fixture
def server(postgresql: Server | None) -> Server:
    """The PostgreSQL server; skips on SQLite."""
    if postgresql is None:
        pytest.skip("needs PostgreSQL")
    return postgresql
