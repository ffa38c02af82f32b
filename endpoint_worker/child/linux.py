"""Linux features for groups of processes and for the C library; no effect on other systems."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

from umbel.system.processes import prctl

#: Number of the system call sched_setattr, which Python does not wrap, and its ``struct sched_attr``.
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "ppc64le": 355, "s390x": 345}
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")
_SET_TIMER_SLACK, _SET_CHILD_SUBREAPER = 29, 36


def adopt_orphans() -> bool:
    """Make this process the parent of orphans among its descendants; return False if unsupported."""
    return prctl(_SET_CHILD_SUBREAPER, 1)


def exact_timers() -> bool:
    """Let sleeps of this process end on time instead of up to 50 us later; return False if unsupported."""
    return prctl(_SET_TIMER_SLACK, 1)


def short_time_slices(seconds: float) -> bool:
    """Request scheduler time slices of ``seconds`` for this process and its children (Linux 6.12).

    The share of processor time stays the same, but a process with short slices need not wait for the end of
    another one's long slice (2.8 ms), so a call continues at once after a sleep or read. Returns False if
    unsupported.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    attributes = _SCHED_ATTR.pack(
        _SCHED_ATTR.size, os.SCHED_OTHER, 0, os.getpriority(os.PRIO_PROCESS, 0), 0, int(seconds * 1e9), 0, 0
    )
    return not ctypes.CDLL(None).syscall(number, 0, attributes, 0)


def unbuffer_c() -> None:
    """Disable output buffering in C libraries, so that output is not attributed to a later call."""
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    unbuffered = 2  # _IONBF of glibc and musl
    for name in ("stdout", "stderr"):
        try:
            stream = ctypes.c_void_p.in_dll(library, name)
        except ValueError:
            continue
        library.setvbuf(stream, None, unbuffered, ctypes.c_size_t(0))
