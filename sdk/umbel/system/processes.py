"""Linux system calls about a process and its parent. They have no effect on other systems."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1
#: Loaded at import, because the first call may happen between fork and exec.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def prctl(option: int, value: int) -> bool:
    """Call ``prctl(2)``; return whether the kernel accepted it. False on systems without it."""
    return _libc is not None and _libc.prctl(option, value, 0, 0, 0) == 0


def prctl_value(option: int, value: int = 0) -> int:
    """Return the result of ``prctl(2)`` for an option that reads; -1 on systems without it."""
    return -1 if _libc is None else int(_libc.prctl(option, value, 0, 0, 0))


def end_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Make the kernel send this process a signal when its parent exits. Safe between fork and exec.

    Linux sends it when the parent's thread that started this process ends, even if the parent goes on.

    Args:
        parent: The parent's process id. If it has exited already, this process exits with status 1.
        number: The signal.
    """
    prctl(_SET_PARENT_DEATH_SIGNAL, int(number))
    if os.getppid() != parent:
        # it exited before the call of prctl
        os._exit(1)
