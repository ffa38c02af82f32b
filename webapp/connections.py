"""What all connections of the embedded web server share: limits on connections, and resources."""

from __future__ import annotations

import resource
from collections.abc import Iterable
from typing import Any, Protocol

from federation.context import Federation

from .admission import Bodies, Gate
from .parking import Parking

#: Most open connections; beyond it, the connection that has been idle longest is closed.
CONNECTIONS = 2000
#: Files that the process needs besides its connections.
OTHER_FILES = 300
#: Most connections of one address on which nobody was authenticated yet.
STRANGERS_PER_ADDRESS = 64
#: Seconds within which such a connection must send a request, or its next one.
STRANGER_TIMEOUT = 15.0
#: Seconds of silence after which another connection is closed.
IDLE_TIMEOUT = 60.0
#: Slowest rate of a download without a token, bytes per second, measured over so many seconds.
SLOWEST_RATE, RATE_WINDOW = 4096, 20.0


def raise_file_limit() -> None:
    """Allow this process as many open files as the system permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def most_connections() -> int:
    """Return how many connections this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(64, min(CONNECTIONS, soft - OTHER_FILES))


class Connection(Protocol):
    """One connection, as ``channel.Connection`` has it."""

    addr: Any
    connected: bool
    requests: list[Any]
    proven: bool
    sent: int
    since: float
    mark: tuple[float, int]
    last_activity: float
    total_outbufs_len: int
    lingers_until: float | None

    @property
    def is_idle(self) -> bool:
        """True while the connection waits for a request, or for the rest of one."""

    def handle_close(self) -> None:
        """Close the connection."""


class Front:
    """The connections of one process. Its methods run in the loop's thread."""

    def __init__(self, fed: Federation, connections: int):
        self.parking = Parking()
        self.bodies = Bodies(fed)
        self.gate = Gate()
        self.most = connections
        self._channels: dict[Connection, None] = {}  # in the order of acceptance

    def accepted(self, channel: Connection) -> None:
        """Make room for a new connection: by address for those without a token, and in total."""
        self._forget_closed()
        address = channel.addr[0]
        same = [each for each in self._channels if not each.proven and each.addr[0] == address]
        if len(same) >= STRANGERS_PER_ADDRESS:
            self._close_one(same)
        if len(self._channels) >= self.most:
            strangers = [each for each in self._channels if not each.proven]
            if not self._close_one(strangers):
                self._close_one(self._channels)
        self._channels[channel] = None

    def maintain(self, now: float) -> None:
        """Close connections that send nothing, and anonymous ones that read too slowly."""
        self._forget_closed()
        for channel in self._channels:
            if self._is_over(channel, now):
                # not only marked: a full socket never becomes writable
                channel.handle_close()

    def _is_over(self, channel: Connection, now: float) -> bool:
        """Return whether a connection has to be closed."""
        if channel.lingers_until is not None:
            return channel.lingers_until < now
        silent = now - channel.last_activity > IDLE_TIMEOUT
        if channel.is_idle:
            return silent or (not channel.proven and now - channel.since > STRANGER_TIMEOUT)
        if not channel.total_outbufs_len:
            return False
        return (silent and not channel.requests) or (not channel.proven and self._is_slow(channel, now))

    def _is_slow(self, channel: Connection, now: float) -> bool:
        """Return whether the last window of a download ended and had too few bytes."""
        start, sent = channel.mark
        if start < channel.since or now - start > 2 * RATE_WINDOW:
            channel.mark = now, channel.sent
            return False
        if now - start < RATE_WINDOW:
            return False
        channel.mark = now, channel.sent
        return channel.sent - sent < SLOWEST_RATE * (now - start)

    def _close_one(self, candidates: Iterable[Connection]) -> bool:
        """Close the connection that has been idle longest; return whether there was one."""
        idle = [each for each in candidates if each.is_idle or each.lingers_until is not None]
        if not idle:
            return False
        oldest = min(idle, key=lambda each: each.last_activity)
        oldest.handle_close()
        self._channels.pop(oldest, None)
        return True

    def _forget_closed(self) -> None:
        closed = [each for each in self._channels if not each.connected]
        for each in closed:
            del self._channels[each]

    def stop(self) -> None:
        """End the thread of the parked requests."""
        self.parking.stop()
