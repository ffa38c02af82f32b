"""Built environments on disk, shared by all workers and nodes of an endpoint.

``<digest>/``        an environment
``<digest>.json``    written when it is complete: its Python and its size; touched when it is used
``<digest>.failed``  why it could not be built, and when
``<digest>.lock``    locked exclusively while it is built or removed, shared while a worker uses it

Locks end with their process, so a worker that crashes leaves none; an incomplete build is repeated.
Build programs inherit the lock: one that outlives its worker keeps other workers out of the directory.
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

#: Seconds between two attempts to get a lock that another worker holds.
PAUSE = 0.25

#: Fills a directory, given the lock; returns the interpreter and the base of it.
Make = Callable[[Path, int], tuple[str, str]]


class BuildError(Exception):
    """An environment is not available; the message is for the caller who asked for it."""


class Interrupted(BuildError):
    """A build was stopped together with its worker; this is not a failure and is not recorded."""

    def __init__(self) -> None:
        super().__init__("the worker is shutting down")


@dataclass(frozen=True)
class Built:
    """A built environment. ``python``: its interpreter; ``base``: location of that one's library."""

    digest: str
    folder: str
    python: str
    base: str
    size: int = 0


class Store:
    """Environments in ``directory``; ``most``: bytes, 0: no limit; ``retry``: seconds a failure is kept.

    ``patience``: seconds to wait for a build by another worker; ``settings``: a digest of what a build
    depends on. A failure counts only for equal settings, and not for workers that start after it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        most: int = 0,
        retry: float = 600.0,
        patience: float = math.inf,
        settings: str = "",
    ):
        self.directory = directory
        self._settings = settings
        self._started = time.time()
        self._most = most
        self._retry = retry
        self._patience = patience
        self._leases: dict[str, int] = {}

    def lease(self, digest: str) -> Built | None:
        """Return an environment that exists and keep it until ``release``; None if it does not exist."""
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
        """Digests of environments that this worker protects from removal."""
        return list(self._leases)

    def release(self, digest: str) -> None:
        """End this worker's use of an environment."""
        fd = self._leases.pop(digest, None)
        if fd is not None:
            os.close(fd)

    def failure(self, digest: str) -> str | None:
        """Return the error of a recent failed build that still counts, if any."""
        try:
            record = json.loads((self.directory / f"{digest}.failed").read_text())
            when, message = float(record["time"]), str(record["message"])
            left = when + self._retry - time.time()
            if when < self._started or record.get("settings", "") != self._settings:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not 0 < left <= self._retry:
            return None
        return (
            f"{message}\n(this build failed {self._retry - left:.0f} s ago; it is tried again in "
            f"{left:.0f} s, or at once after the endpoint's worker is restarted)"
        )

    def build(self, digest: str, make: Make, stop: Callable[[], bool]) -> None:
        """Build an environment unless it exists; only one worker at a time does so.

        ``make`` fills the directory and returns the interpreter and its base; it raises BuildError or
        OSError. Programs that it starts inherit the file descriptor, which is the lock. ``stop`` returns
        whether to stop waiting for another worker. Raises BuildError, which is recorded unless it is
        Interrupted.
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
                self._record_failure(digest, str(error))
                raise BuildError(str(error)) from None
        self.prune(keep=digest)

    def forget(self, digest: str, why: str) -> None:
        """Mark an environment that was built but does not work as failed."""
        self.release(digest)
        (self.directory / f"{digest}.json").unlink(missing_ok=True)
        self._record_failure(digest, why)

    def _record_failure(self, digest: str, message: str) -> None:
        record = {"time": time.time(), "message": message, "settings": self._settings}
        _write(self.directory / f"{digest}.failed", record)

    def prune(self, keep: str = "") -> None:
        """Remove unused environments, least recently used first, until the total size is within the limit."""
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
                log.info("environment %s removed to free space", built.digest[:12])

    def _remove(self, digest: str) -> bool:
        fd = self._open(digest)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # first the file that marks it as complete
            (self.directory / f"{digest}.json").unlink(missing_ok=True)
            shutil.rmtree(self.directory / digest, ignore_errors=True)
            return True
        except OSError:
            return False  # in use
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
                        message = (
                            f"another build of it does not end: find the process that has {digest}.lock open"
                        )
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
    """Return bytes on disk; hard links, as created from uv's cache, count once."""
    total, seen = 0, set()
    for parent, _, files in os.walk(directory):
        for name in files:
            status = os.lstat(os.path.join(parent, name))
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
    return total
