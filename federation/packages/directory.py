"""A directory of wheels: which there are, their hashes, and safe access by file name."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from umbel.protocol.errors import NotFound, ServiceUnavailable

#: Files that are sent at the same time; each needs a file descriptor.
DOWNLOADS = 64
#: The name of a wheel by the packaging standard: name, version, build (if any), Python, ABI, platform.
_NAME = re.compile(
    r"(?P<project>[A-Za-z0-9](?:[A-Za-z0-9._]*[A-Za-z0-9])?)-(?P<version>[A-Za-z0-9_.!+]+)"
    r"(?:-[0-9][A-Za-z0-9_.]*)?-[A-Za-z0-9_.]+-[A-Za-z0-9_.]+-[A-Za-z0-9_.]+\.whl\Z"
)
_MAX_NAME = 200
#: Seconds that a request waits while another one computes a hash: threads are few, and files may be huge.
_WAIT = 1.0
#: Nanoseconds after which a file's times tell its content from a later one; file systems have coarse clocks.
_SETTLED = 2_000_000_000
#: Identity of a file's content: device, inode, size, times of the last write and change in nanoseconds. A
#: write cannot leave the last one as it was.
_Key = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Wheel:
    """One file of the directory. ``project``: the normalized name; ``size`` in bytes."""

    file: str
    project: str
    version: str
    size: int
    sha256: str


def normalized(project: str) -> str:
    """The name of a project as it is compared and as URLs have it."""
    return re.sub(r"[-_.]+", "-", project).lower()


class Directory:
    """The wheels in ``path``. Only regular files with the name of a wheel exist; links are ignored.

    Safe to share between threads; files may be added and removed at any time.
    """

    def __init__(self, path: Path, downloads: int = DOWNLOADS):
        self.path = path
        self._slots = _Slots(downloads)
        self._hashing = threading.Lock()
        self._known: dict[str, tuple[_Key, Wheel]] = {}

    def wheels(self) -> list[Wheel]:
        """All wheels by project and file name; empty when there is no directory.

        A file that cannot be read, or changes while it is read, is left out. Raises ServiceUnavailable.
        """
        try:
            names = os.listdir(self.path)
        except OSError as error:
            _check_descriptors(error)
            names = []
        found = []
        for name in names:
            try:
                with self._file(name) as file:
                    found.append(self._wheel(name, file))
            except (NotFound, OSError):
                continue
        for name in set(list(self._known)).difference(names):
            self._known.pop(name, None)
        return sorted(found, key=lambda wheel: (wheel.project, wheel.file))

    def find(self, name: str) -> Wheel:
        """The wheel with this file name. Raises NotFound; ServiceUnavailable while others are hashed."""
        with self._file(name) as file:
            return self._wheel(name, file)

    def open(self, name: str, reader: str = "") -> tuple[Wheel, BinaryIO]:
        """A wheel and its content; the caller closes the file. ``reader``: the address that receives it.

        Raises NotFound, and ServiceUnavailable when too many files are open or hashes are computed. Reading
        raises OSError if the file has become shorter.
        """
        release = self._slots.take(reader)
        try:
            file = _Download(self._descriptor(name), release)
        except BaseException:
            release()
            raise
        try:
            wheel = self._wheel(name, file)
            file.size = wheel.size
            return wheel, file
        except BaseException:
            file.close()
            raise

    def _file(self, name: str) -> io.FileIO:
        return io.FileIO(self._descriptor(name))

    def _descriptor(self, name: str) -> int:
        """An open regular file of the directory itself. Raises NotFound."""
        if len(name) > _MAX_NAME or not _NAME.match(name):
            raise _not_found(name)
        try:
            # a pipe must not block
            descriptor = os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            _check_descriptors(error)
            raise _not_found(name) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _not_found(name)
        return descriptor

    def _wheel(self, name: str, file: io.FileIO) -> Wheel:
        key = _key(file)
        known = self._known.get(name)
        if known is not None and known[0] == key:
            return known[1]
        if not self._hashing.acquire(timeout=_WAIT):
            raise ServiceUnavailable("the hashes of new package files are being computed: try again")
        try:
            known = self._known.get(name)
            if known is None or known[0] != key:
                known = (key, _described(name, file))
                if _key(file) != key:  # it is being written
                    raise _not_found(name)
                if abs(time.time_ns() - key[-1]) > _SETTLED:
                    self._known[name] = known
        finally:
            self._hashing.release()
        return known[1]


def _key(file: io.FileIO) -> _Key:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _described(name: str, file: io.FileIO) -> Wheel:
    match = _NAME.match(name)
    assert match is not None, name
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    size = file.tell()
    file.seek(0)
    return Wheel(name, normalized(match["project"]), match["version"], size, digest.hexdigest())


def _check_descriptors(error: OSError) -> None:
    """Raise ServiceUnavailable if the process or the system has no file descriptor left."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise ServiceUnavailable("too many files are open: try again") from None


def _not_found(name: str) -> NotFound:
    return NotFound(f"there is no package file '{name[:_MAX_NAME]}' here: /packages/ lists the packages")


class _Slots:
    """Places of downloads. An address gets one only while more are free than that address has."""

    def __init__(self, total: int):
        self._total = total
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    def take(self, reader: str) -> Callable[[], None]:
        """Take a place; return what releases it. Raises ServiceUnavailable."""
        with self._lock:
            if self._taken[reader] >= self._total - self._taken.total():
                raise ServiceUnavailable("too many downloads at the same time: try again")
            self._taken[reader] += 1
        return lambda: self._release(reader)

    def _release(self, reader: str) -> None:
        with self._lock:
            self._taken[reader] -= 1
            if not self._taken[reader]:
                del self._taken[reader]


class _Download(io.FileIO):
    """A file that occupies a slot until it is closed. ``size``: its bytes when it was opened."""

    def __init__(self, descriptor: int, release: Callable[[], None]):
        self.size = 0
        self._release: Callable[[], None] | None = None
        super().__init__(descriptor)
        self._release = release

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes. Raises OSError if the file ends before its size.

        Without the error, waitress would try to send the missing part again and again.
        """
        data = super().read(size)
        if not data and size != 0 and self.tell() < self.size:
            raise OSError(errno.EIO, "the package file became shorter while it was sent")
        return data or b""

    def close(self) -> None:
        """Close the file; a second time it has no effect."""
        super().close()
        release, self._release = self._release, None
        if release is not None:
            release()
