"""Files of a home: private ones written in one piece, and the lock that keeps one service per home."""

from __future__ import annotations

import fcntl
import os
import tempfile
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


def write_private(path: Path, text: str) -> None:
    """Put ``text`` into ``path`` (mode 0600) in one step: readers see the old or the new text."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def append_private(path: Path) -> int:
    """Open ``path`` for appending, made with mode 0600 if new; return the open descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


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
