"""Admission of large request bodies: authenticated before they are read, and bounded in number and memory."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from federation.context import Federation
from federation.registry import users
from umbel.protocol import limits
from umbel.protocol.errors import TooMany

from .auth import token_of

#: A body up to this size is read with its headers, before its sender is authenticated.
SMALL_BODY = 16 * 1024
#: A body above this size is kept in a temporary file instead of memory, unless there is room for it: so many
#: bytes of bodies of known size are in memory at the same time.
SPOOL_ABOVE, IN_MEMORY = 512 * 1024, 32 * 1024 * 1024
#: Bytes of large bodies that are received or processed at the same time, and what each of them counts at
#: least: so at most 128 of them are in memory.
BUDGET, LEAST = 256 * 1024 * 1024, 2 * 1024 * 1024
#: Requests with a body above this size, of which so many are processed at the same time: each needs several
#: times its size.
PROCESSED_ABOVE, PROCESSED_TOGETHER = 1024 * 1024, 3
#: Seconds after which a rejected request may be repeated.
RETRY_AFTER = 1.0


class Bodies:
    """The budget of large bodies. A user gets more of it only while more is free than that user has."""

    def __init__(self, fed: Federation, budget: int = BUDGET, in_memory: int = IN_MEMORY):
        self._fed = fed
        self._budget = budget
        self._room = in_memory
        self._lock = threading.Lock()
        self._taken: Counter[int] = Counter()

    def admit(self, authorization: str, size: int | None) -> Callable[[], None]:
        """Authenticate the sender of a body of ``size`` bytes (None: unknown) and reserve it.

        Returns what releases the reservation. Raises Unauthorized, TooMany.
        """
        user = users.authenticate(self._fed, token_of(authorization))
        reserved = max(LEAST, limits.MAX_REQUEST_BYTES if size is None else size)
        with self._lock:
            free = self._budget - self._taken.total()
            if self._taken[user.no] >= free or reserved > free:
                raise TooMany(
                    f"too many large requests at the same time (yours: {self._taken[user.no]} bytes, of all "
                    f"users: {self._taken.total()} of {self._budget}): try again in {RETRY_AFTER:g} s",
                    details={"retry_after": RETRY_AFTER},
                )
            self._taken[user.no] += reserved
        return lambda: self._release(user.no, reserved)

    def keep(self, size: int) -> Callable[[], None] | None:
        """Reserve memory for a body of this size; return what releases it, or None if there is none."""
        with self._lock:
            if size > self._room:
                return None
            self._room -= size
        return lambda: self._give_back(size)

    def _give_back(self, size: int) -> None:
        with self._lock:
            self._room += size

    def _release(self, user_no: int, size: int) -> None:
        with self._lock:
            self._taken[user_no] -= size
            if self._taken[user_no] <= 0:
                del self._taken[user_no]


class Resumable(Protocol):
    """A request that can be run again."""

    def resume(self) -> None:
        """Put the request into the queue of the threads. Must not block."""


class Gate:
    """Limits how many requests with large bodies are processed at the same time; others wait in order."""

    def __init__(self, most: int = PROCESSED_TOGETHER):
        self._lock = threading.Lock()
        self._free = most
        self._waiting: deque[Resumable] = deque()

    def enter(self, request: Resumable) -> bool:
        """Take a place. If there is none, return False; the request is resumed when it has one."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            self._waiting.append(request)
            return False

    def leave(self) -> None:
        """Pass the place on to the next request."""
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            request = self._waiting.popleft()
        request.resume()
