"""Large request bodies that arrive in parts: files in the home, by user, that expire after an hour."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from pathlib import Path

from umbel.protocol import limits
from umbel.protocol.errors import Conflict, NotFound, TooLarge

from .users import User

#: Bytes of the uploads of one user; the oldest are deleted for a new one.
USER_BYTES = 5 * limits.MAX_REQUEST_BYTES
#: Seconds after its last part when an upload is deleted, and the interval of looking for those.
LIFETIME, SWEEP_INTERVAL = 3600.0, 60.0
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


class Uploads:
    """The uploads in ``folder``. Safe to share between threads; processes on one machine share them, too."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()
        self._swept = 0.0

    def put(self, user: User, upload: str, offset: int, part: bytes) -> int:
        """Write a part of an upload; return the size of the upload so far.

        ``offset``: its position, at most the size so far; what follows it is replaced. Raises Conflict with
        the size so far in its details, TooLarge, NotFound.
        """
        if offset + len(part) > limits.MAX_REQUEST_BYTES:
            raise TooLarge(
                f"an upload may have up to {limits.MAX_REQUEST_BYTES} bytes: send smaller requests"
            )
        path = self._path(user, upload)
        with self._lock:
            self._delete_expired()
            size = _size(path) or 0
            if offset > size:
                raise Conflict(f"upload '{upload}' has {size} bytes", details={"size": size})
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(path, offset + len(part))
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "wb", closefd=True) as file:
                file.seek(offset)
                file.write(part)
                file.truncate()
        return offset + len(part)

    def read(self, user: User, upload: str, sha256: str) -> bytes:
        """Return a complete upload. Raises NotFound if it is unknown, expired or not complete."""
        try:
            data = self._path(user, upload).read_bytes()
        except FileNotFoundError:
            data = None
        if data is None or hashlib.sha256(data).hexdigest() != sha256.lower():
            raise NotFound(
                f"upload '{upload}' does not exist, has expired or is not complete: send it again",
                code="UPLOAD_NOT_FOUND",
            )
        return data

    def _path(self, user: User, upload: str) -> Path:
        if not _ID.match(upload):
            raise NotFound(
                f"no upload can have the id '{upload[:80]}': choose a lower-case UUID with dashes",
                code="UPLOAD_NOT_FOUND",
            )
        return self.folder / str(user.no) / upload

    def _make_room(self, path: Path, size: int) -> None:
        """Delete the user's oldest other uploads until one of ``size`` bytes fits."""
        others = sorted((each for each in path.parent.iterdir() if each != path), key=_age)
        total = sum(_size(each) or 0 for each in others)
        while others and total + size > USER_BYTES:
            total -= _size(others[0]) or 0
            others.pop(0).unlink(missing_ok=True)

    def _delete_expired(self) -> None:
        now = time.time()
        if now - self._swept < SWEEP_INTERVAL or not self.folder.is_dir():
            return
        self._swept = now
        for folder in self.folder.iterdir():
            for path in folder.iterdir() if folder.is_dir() else ():
                if now - _age(path) > LIFETIME:
                    path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all uploads."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _age(path: Path) -> float:
    """Return when a file was written last, seconds since 1970."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
