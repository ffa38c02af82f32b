"""Resource usage of a call, measured by the runner itself: the quantities of a Lightweight Function Monitor.

The process and its children are measured between two baselines, not at every call: a baseline is taken before
a bundle and after every measured call, so calls too short to be measured cost nothing.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from typing import Any

#: Calls shorter than this (seconds) get no usage record, only run time and place.
MEASURED_FROM = 0.01
#: ``ru_maxrss`` is in kilobytes, except on macOS, where it is in bytes.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Meter:
    """Measures this process and the children that it has waited for."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Take a new baseline."""
        # Linux: reset the peak size; elsewhere the peak is that of the process's whole lifetime
        try:
            file = os.open("/proc/self/clear_refs", os.O_WRONLY)
        except OSError:
            pass
        else:
            try:
                os.write(file, b"5")
            except OSError:
                pass
            os.close(file)
        self._own = resource.getrusage(resource.RUSAGE_SELF)
        self._children = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._bytes = _bytes()

    def end(self, cpu: float) -> dict[str, Any]:
        """Return the usage since ``begin`` and take a new baseline.

        ``cpu``: processor seconds that this process had used when the call began. The record: ``cpu``,
        ``user`` and ``system`` (seconds, children included), ``max_rss`` (bytes: the largest resident size of
        the process, or of a child larger than any before), ``read`` and ``written`` (bytes through files,
        pipes and devices; omitted where the system does not count them).
        """
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        user, system = own.ru_utime - self._own.ru_utime, own.ru_stime - self._own.ru_stime
        # short calls since the baseline are included in these: the exact sum is that of the call alone
        exact = max(0.0, time.process_time() - cpu)
        share = user / (user + system) if user + system > 0 else 1.0
        user = exact * share + children.ru_utime - self._children.ru_utime
        system = exact * (1 - share) + children.ru_stime - self._children.ru_stime
        peak = _peak() or own.ru_maxrss * _RSS_UNIT
        if children.ru_maxrss > self._children.ru_maxrss:
            peak = max(peak, children.ru_maxrss * _RSS_UNIT)
        record: dict[str, Any] = {
            "cpu": round(user + system, 6),
            "user": round(user, 6),
            "system": round(system, 6),
            "max_rss": peak,
        }
        before, now = self._bytes, _bytes()
        if before is not None and now is not None:
            record["read"], record["written"] = now[0] - before[0], now[1] - before[1]
        self.begin()
        return record


def _bytes() -> tuple[int, int] | None:
    """Return bytes read and written so far by this process and the children that it has waited for."""
    try:
        with open("/proc/self/io", "rb", buffering=0) as file:
            words = file.read(256).split()
        return int(words[1]), int(words[3])
    except (OSError, ValueError, IndexError):
        return None


def _peak() -> int:
    """Return the peak resident size (bytes) since the last reset; 0 if unknown."""
    try:
        with open("/proc/self/status", "rb", buffering=0) as file:
            text = file.read(4096)
        return int(text[text.index(b"VmHWM:") + 6 :].split(None, 1)[0]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
