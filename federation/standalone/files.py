"""Files in a home directory: private directories, and the lock that allows one service per home."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from umbel.protocol.errors import UmbelError


class StartError(UmbelError):
    """The service cannot be started as requested; the message is written for users."""

    default_code = "BAD_REQUEST"

    def __str__(self) -> str:
        return self.message


def starting_file(home: Path) -> Path:
    """Return the file that ``up`` locks until its startup is complete."""
    return home / "run" / "starting.lock"


def private_folder(path: Path) -> Path:
    """Create directory ``path`` with mode 0700, and its parents; return it.

    An existing directory keeps its mode. Raises StartError if it cannot be created or is not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StartError(
            f"Cannot create directory {path}: {error.strerror}. Choose another one with --home."
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise StartError(
            f"Directory {path} is not writable: change its owner or mode, or choose another one with --home."
        )
    return path


class PidLock:
    """A lock file that contains the pid of its owner.

    The lock ends with the process in every case; a leftover file does not block a new process.
    """

    def __init__(self, path: Path):
        self.path = path
        self._handle = -1

    def acquire(self) -> int | None:
        """Acquire the lock and write the pid; return None, or the pid of the owner (0: unknown)."""
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

    @staticmethod
    def is_held(path: Path) -> bool:
        """Return whether some process has the lock of this file; False if it cannot be read."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
        finally:
            os.close(handle)
        return False

    def release(self) -> None:
        """Empty the file and release the lock; does nothing if it is not acquired."""
        if self._handle >= 0:
            os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = -1
