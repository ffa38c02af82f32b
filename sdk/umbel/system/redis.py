"""Options of Redis connections: no part of Umbel waits indefinitely for an unreachable broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Arguments of commands from this size on are sent from where they lie, bytes.
LARGE = 64 * 1024


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


class Packer:
    """Encodes commands, as the option ``command_packer`` of a connection.

    hiredis encodes small arguments fastest. To encode one of a megabyte takes it 2 ms, which is more than
    everything else that is done with it, because its buffer grows step by step.
    """

    def __init__(self, pack_small: Callable[..., Any]):
        """Args: ``pack_small``: encodes commands without large arguments."""
        self._pack_small = pack_small

    def pack(self, *args: Any) -> Any:
        """Return the pieces of a command."""
        for arg in args:
            if type(arg) is bytes and len(arg) >= LARGE:
                return self._pack_large(args)
        return self._pack_small(*args)

    def _pack_large(self, args: tuple[Any, ...]) -> list[bytes]:
        # a command may have two words, which are arguments of their own
        words = [*_encoded(args[0]).split(), *map(_encoded, args[1:])]
        pieces = []
        head = b"*%d\r\n" % len(words)
        for word in words:
            head += b"$%d\r\n" % len(word)
            if len(word) < LARGE:
                head += word
            else:
                pieces += [head, word]
                head = b""
            head += b"\r\n"
        return [*pieces, head]


def _encoded(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if type(value) not in (str, int, float):
        raise TypeError(f"a value of type {type(value).__name__} cannot be an argument of a command")
    return (repr(value) if isinstance(value, float) else str(value)).encode()
