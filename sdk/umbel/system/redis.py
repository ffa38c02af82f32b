"""Options of Redis connections, so that no part of Umbel waits indefinitely for an unreachable broker."""

from __future__ import annotations

from typing import Any


def connection_options(timeout: float, connect_timeout: float = 5.0) -> dict[str, Any]:
    """Return keyword arguments of ``redis.Redis.from_url``.

    Args:
        timeout: Longest time that a command may take, seconds.
        connect_timeout: Longest time that connecting may take, seconds; at most ``timeout``.
    """
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": min(timeout, connect_timeout),
        "socket_keepalive": True,
        "health_check_interval": 30,
    }
