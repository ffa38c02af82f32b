"""Wait with a deadline, instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], timeout: float = 10.0, *, what: str = "", interval: float = 0.01
) -> T:
    """Return the first true value of ``condition()``, asked again and again for ``timeout`` seconds.

    The pause between two questions grows from ``interval`` to a quarter of a second. Raises AssertionError
    naming ``what`` (default: the condition) with its last value when the time is over; exceptions of the
    condition pass through.
    """
    deadline = time.monotonic() + timeout
    pause = interval
    while True:
        value = condition()
        if value:
            return value
        left = deadline - time.monotonic()
        if left <= 0:
            name = what or getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"waited {timeout:g} s in vain for: {name} (last seen: {value!r})")
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, 0.25)
