"""Built environments on disk, shared by all workers and nodes of an endpoint.

``<digest>/``        an environment
``<digest>.json``    written when it is complete: its Python and its size; touched when it is used
``<digest>.failed``  why it could not be built, and when
``<digest>.lock``    locked exclusively while it is built or removed, shared while a worker uses it

Locks go with their process, so a worker that dies leaves none; what it had half built is built anew. The
programs that build have the lock, too: one that outlives its worker keeps others out of the folder.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

log = logging.getLogger(__name__)

#: Seconds between two looks at a lock that another worker has.
PAUSE = 0.25

#: Fills a folder, given the lock; returns the interpreter and where that one's own library is.
Make = Callable[[Path, int], tuple[str, str]]


class BuildError(Exception):
    """An environment cannot be had; the message is for whoever asked for it."""


class Interrupted(BuildError):
    """A build ended with its worker: that says nothing of the environment, and is not remembered."""

    def __init__(self) -> None:
        super().__init__("its worker is stopping")


@dataclass(frozen=True)
class Built:
    """A built environment. ``python``: its interpreter; ``base``: where that one's own library is."""

    digest: str
    folder: str
    python: str
    base: str
    size: int = 0


class Store:
    """Environments in ``folder``; ``most``: bytes, 0 for no limit; ``retry``: seconds a failure counts.

    ``patience``: seconds that somebody else's build may take.
    """

    def __init__(self, directory: Path, *, most: int = 0, retry: float = 600.0, patience: float = math.inf):
        self.directory = directory
        self._most = most
        self._retry = retry
        self._patience = patience
        self._leases: dict[str, int] = {}

    def lease(self, digest: str) -> Built | None:
        """Return an environment that is there, which then stays until ``release``; else None."""
        known = digest in self._leases
        fd = self._leases[digest] if known else self._open(digest)
        try:
            if not known:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            built = self._read(digest)
        except OSError:
            built = None
        if built is None:
            if not known:
                os.close(fd)
            return None
        self._leases[digest] = fd
        return built

    def leased(self) -> list[str]:
        """Digests of what this worker keeps from being removed."""
        return list(self._leases)

    def release(self, digest: str) -> None:
        """This worker uses it no more."""
        fd = self._leases.pop(digest, None)
        if fd is not None:
            os.close(fd)

    def failure(self, digest: str) -> str | None:
        """Why it could not be built, if that was lately."""
        try:
            record = json.loads((self.directory / f"{digest}.failed").read_text())
            return str(record["message"]) if time.time() - float(record["time"]) < self._retry else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def build(self, digest: str, make: Make, stop: Callable[[], bool]) -> None:
        """Have it built unless it is there, by one worker at a time.

        ``make`` fills the folder and returns the interpreter and its base; raises BuildError or OSError. The
        programs that it starts get the file descriptor, which is the lock.
        ``stop``: tells whether waiting for another worker shall end. Raises BuildError, which is remembered
        unless it is Interrupted.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._exclusive(digest, stop) as lock:
            if self._read(digest) is not None:
                return
            if (failed := self.failure(digest)) is not None:
                raise BuildError(failed)
            directory = self.directory / digest
            shutil.rmtree(directory, ignore_errors=True)
            try:
                python, base = make(directory, lock)
                built = Built(digest, str(directory), python, base, _size(directory))
                _write(self.directory / f"{digest}.json", asdict(built))
                (self.directory / f"{digest}.failed").unlink(missing_ok=True)
            except (BuildError, OSError) as error:
                shutil.rmtree(directory, ignore_errors=True)
                if isinstance(error, Interrupted):
                    raise
                _write(self.directory / f"{digest}.failed", {"time": time.time(), "message": str(error)})
                raise BuildError(str(error)) from None
        self.prune(keep=digest)

    def forget(self, digest: str, why: str) -> None:
        """It was built and does not work: nobody shall use it for a while."""
        self.release(digest)
        (self.directory / f"{digest}.json").unlink(missing_ok=True)
        _write(self.directory / f"{digest}.failed", {"time": time.time(), "message": why})

    def prune(self, keep: str = "") -> None:
        """Remove what was used longest ago and by nobody now, until the rest is small enough."""
        entries = []
        for file in self.directory.glob("*.json"):
            built = self._peek(file.stem)
            if built is not None:
                entries.append((file.stat().st_mtime, built))
        total = sum(built.size for _, built in entries)
        for _, built in sorted(entries, key=lambda entry: entry[0]):
            if not self._most or total <= self._most:
                return
            if built.digest != keep and self._remove(built.digest):
                total -= built.size
                log.info("environment %s is removed to make room", built.digest[:12])

    def _remove(self, digest: str) -> bool:
        fd = self._open(digest)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # first what says that it is complete
            (self.directory / f"{digest}.json").unlink(missing_ok=True)
            shutil.rmtree(self.directory / digest, ignore_errors=True)
            return True
        except OSError:
            return False  # somebody uses it
        finally:
            os.close(fd)

    def _read(self, digest: str) -> Built | None:
        built = self._peek(digest)
        if built is not None:
            os.utime(self.directory / f"{digest}.json")
        return built

    def _peek(self, digest: str) -> Built | None:
        try:
            built = Built(**json.loads((self.directory / f"{digest}.json").read_text()))
            return built if os.path.exists(built.python) else None
        except (OSError, ValueError, TypeError):
            return None

    def _open(self, digest: str) -> int:
        self.directory.mkdir(parents=True, exist_ok=True)
        return os.open(self.directory / f"{digest}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    @contextmanager
    def _exclusive(self, digest: str, stop: Callable[[], bool]) -> Iterator[int]:
        until = time.monotonic() + self._patience
        fd = self._open(digest)
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if stop():
                        raise Interrupted from None
                    if time.monotonic() > until:
                        message = f"another build of it does not end: see what has {digest}.lock open"
                        raise BuildError(message) from None
                    time.sleep(PAUSE)
            yield fd
        finally:
            os.close(fd)


def _write(file: Path, record: dict[str, object]) -> None:
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(json.dumps(record))
    os.replace(draft, file)


def _size(directory: Path) -> int:
    """Bytes on disk; a file with several names, as uv's cache gives them, counts where it is found first."""
    total, seen = 0, set()
    for parent, _, files in os.walk(directory):
        for name in files:
            status = os.lstat(os.path.join(parent, name))
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
    return total
