"""A future that is cheap to create, for programs that keep a million of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures._base import PENDING
from typing import Any


class LightCondition(threading.Condition):
    """A condition variable with a reentrant lock of its own.

    ``threading.Condition`` creates six more objects, methods of the lock, each of which the garbage collector
    visits again and again while the future exists.
    """

    def __init__(self) -> None:
        self._lock: Any = threading.RLock()
        self._waiters: deque[Any] = deque()

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        """Acquire the lock, as ``threading.RLock.acquire``."""
        return bool(self._lock.acquire(*args, **kwargs))

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def _release_save(self) -> Any:
        return self._lock._release_save()

    def _acquire_restore(self, state: Any) -> None:
        self._lock._acquire_restore(state)

    def _is_owned(self) -> bool:
        return bool(self._lock._is_owned())


class LightFuture(Future[Any]):
    """A ``concurrent.futures.Future`` with a ``LightCondition``."""

    def __init__(self) -> None:
        # as Future.__init__, which would create the condition variable that this class avoids
        self._condition: threading.Condition = LightCondition()
        self._state = PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Callable[[Any], Any]] = []
