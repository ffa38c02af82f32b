"""Favours that only Linux does for a family of processes and its C library; elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

from umbel.system.processes import prctl

#: Number of the system call sched_setattr, which Python has no function for, and its ``struct sched_attr``.
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "ppc64le": 355, "s390x": 345}
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")
_SET_TIMER_SLACK, _SET_CHILD_SUBREAPER = 29, 36


def adopt_orphans() -> bool:
    """Make this process the parent of orphans below it; False where the system cannot."""
    return prctl(_SET_CHILD_SUBREAPER, 1)


def exact_timers() -> bool:
    """End this process's sleeps when they are over, not up to 50 us later; False where the system cannot."""
    return prctl(_SET_TIMER_SLACK, 1)


def short_time_slices(seconds: float) -> bool:
    """Have this process, and what it starts, take turns of ``seconds`` at a busy processor (Linux 6.12).

    Its share stays the same. But who asks for short turns need not wait for the end of another's long one
    (2.8 ms): a call whose sleep or read is over goes on at once. False where the system cannot.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    attributes = _SCHED_ATTR.pack(
        _SCHED_ATTR.size, os.SCHED_OTHER, 0, os.getpriority(os.PRIO_PROCESS, 0), 0, int(seconds * 1e9), 0, 0
    )
    return not ctypes.CDLL(None).syscall(number, 0, attributes, 0)


def unbuffer_c() -> None:
    """Have C libraries write at once what they print, so that it is not taken for a later call's."""
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
