"""Processes whose clock is wrong, by libfaketime (Debian's package ``faketime``)."""

from __future__ import annotations

import os
from pathlib import Path

_FOUND = [os.environ.get("LIBFAKETIME", ""), *map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))]
#: The library, or None if it is not installed.
LIBRARY = next((path for path in _FOUND if path and Path(path).exists()), None)


def variables(offset: Path) -> dict[str, str]:
    """Variables of processes whose clock differs by what ``offset`` contains ("+2h"), read every second.

    Their monotonic clock is right.
    """
    return {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
