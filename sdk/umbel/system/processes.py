"""Calls of the Linux kernel about a process and its parent; elsewhere they have no effect."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1
#: Loaded here, not at the first call: that may happen between fork and exec.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def prctl(option: int, value: int) -> bool:
    """Call ``prctl(2)``; return whether the kernel accepted it. False where there is no such call."""
    return _libc is not None and _libc.prctl(option, value, 0, 0, 0) == 0


def end_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends. Safe between fork and exec.

    Args:
        parent: The parent's process id. If it has ended already, this process exits with status 1.
        number: The signal.
    """
    prctl(_SET_PARENT_DEATH_SIGNAL, int(number))
    if os.getppid() != parent:
        # it ended before the kernel was asked
        os._exit(1)
