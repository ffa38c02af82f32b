"""Locks of files, as other processes see them."""

from __future__ import annotations

import fcntl


def is_locked(file: str) -> bool:
    """Return whether a process, this one among them, has the lock of a file."""
    with open(file, "a") as other:
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
