"""The functions that every system calls, importable in clients and workers."""

from __future__ import annotations

import time
from typing import Any


def same(value: Any) -> Any:
    """Return the argument, so that every result can be checked."""
    return value


def nap(item: Any) -> Any:
    """Sleep for ``item[1]`` seconds, unless it is 0, and return ``item[0]``."""
    if item[1]:
        time.sleep(item[1])
    return item[0]


#: Name in a work's plan -> function.
BY_NAME = {"same": same, "nap": nap}
