"""Favours that only Linux does for a family of processes and its C library; elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_SET_DEATH_SIGNAL, _SET_TIMER_SLACK, _SET_CHILD_SUBREAPER = 1, 29, 36


def die_with(parent: int) -> None:
    """Have this process killed when its parent dies, even in the middle of a call."""
    _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        # it died before it could be asked
        os._exit(1)


def adopt_orphans() -> bool:
    """Make this process the parent of orphans below it; False where the system cannot."""
    return _prctl(_SET_CHILD_SUBREAPER, 1)


def exact_timers() -> bool:
    """End this process's sleeps when they are over, not up to 50 us later; False where the system cannot."""
    return _prctl(_SET_TIMER_SLACK, 1)


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


def _prctl(option: int, value: int) -> bool:
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)
