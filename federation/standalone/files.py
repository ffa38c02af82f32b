"""Files of a home: private ones written in one piece, and the lock that keeps one service per home."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from umbel.protocol.errors import UmbelError


class StartError(UmbelError):
    """The service cannot be started as asked; the message is one sentence for a person."""

    default_code = "BAD_REQUEST"

    def __str__(self) -> str:
        return self.message


def private_folder(path: Path) -> Path:
    """Make ``path`` with its parents, the folder itself for its owner only (0700); return it.

    A folder that exists keeps its mode. Raises StartError when it cannot be made or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StartError(
            f"Folder {path} cannot be made: {error.strerror}. Name another with --home."
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise StartError(
            f"Folder {path} cannot be written to: change its owner or mode, or name another with --home."
        )
    return path


class PidLock:
    """A file that its holder keeps locked and that names the holder's pid.

    The lock ends with the process, however that ends; a left-over file locks nobody out.
    """

    def __init__(self, path: Path):
        self.path = path
        self._handle = -1

    def acquire(self) -> int | None:
        """Take the lock and write the pid; return None, or the pid of its holder (0: unknown)."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.read(handle, 32).strip()
            os.close(handle)
            return int(text) if text.isdigit() else 0
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        self._handle = handle
        return None

    def release(self) -> None:
        """Empty the file and give the lock back; does nothing when it is not held."""
        if self._handle >= 0:
            os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = -1
