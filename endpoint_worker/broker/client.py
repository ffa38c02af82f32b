"""The endpoint's own connections to the broker, apart from Celery's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import RedisError
from redis.retry import Retry

from umbel.system.redis import Packer, connection_options

#: Errors of a broker that is down, unreachable or full, or that rejects a command.
BROKER_ERRORS: tuple[type[Exception], ...] = (RedisError, OSError)


def connect(url: str, *, timeout: float = 10.0) -> redis.Redis:
    """Return a client for ``url`` that responds or fails within ``timeout`` seconds and never retries.

    It has one connection, which its threads use in turn.
    """
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=1,
        timeout=2 * timeout,
        retry=Retry(NoBackoff(), 0),
        command_packer=Packer(HiredisRespSerializer().pack),
        **connection_options(timeout),
    )
    return redis.Redis.from_pool(pool)


def transact(
    client: redis.Redis, commands: Sequence[tuple[Any, ...]], meanwhile: Callable[[], None]
) -> list[Any]:
    """Execute commands in one transaction and ``meanwhile`` while the broker does; return the answers.

    A pipeline of redis-py can do the same without ``meanwhile``. Raises BROKER_ERRORS; after an error of the
    connection it is unknown whether the commands were executed.
    """
    pool = client.connection_pool
    connection: Any = pool.get_connection()
    try:
        connection.send_packed_command(connection.pack_commands([("MULTI",), *commands, ("EXEC",)]))
        meanwhile()
        for _ in range(len(commands) + 1):
            connection.read_response()
        answers: list[Any] = connection.read_response()
    except BaseException:
        connection.disconnect()  # answers may be left
        raise
    finally:
        pool.release(connection)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def at_address(url: str, address: str) -> str:
    """Return the URL with another ``host:port``, for an endpoint that reaches the broker by another route."""
    parts = urlsplit(url)
    account = f"{quote(parts.username or '', safe='')}:{quote(parts.password or '', safe='')}@"
    return urlunsplit(parts._replace(netloc=account + address))


def without_password(url: str) -> str:
    """Return the URL without its password, for logs."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.hostname}:{parts.port or 6379}"))
