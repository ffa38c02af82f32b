"""The packages of a service: the wheel of its own release, built when it is first requested, and others."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from umbel.protocol.errors import NotFound, ServiceUnavailable
from umbel.system.files import append_private, write_private

from . import build
from .directory import Directory, Wheel

log = logging.getLogger(__name__)

#: Seconds after a failed build in which no other is tried.
RETRY = 60.0


class Packages:
    """The wheels in a directory, with that of the running release. Safe to share between threads."""

    def __init__(self, path: Path, root: Path = build.ROOT):
        self._directory = Directory(path)
        self._own = OwnWheel(path, root)

    def wheels(self) -> list[Wheel]:
        """All wheels by project and file name. Raises ServiceUnavailable while the service's own is built."""
        self._own.provide()
        return self._directory.wheels()

    def own(self) -> Wheel | None:
        """The wheel of the running release, if there is one. Raises ServiceUnavailable while it is built."""
        self._own.provide()
        try:
            return self._directory.find(build.WHEEL)
        except NotFound:
            return None

    def open(self, project: str, name: str, reader: str = "") -> tuple[Wheel, BinaryIO]:
        """A wheel of a project and its content; the caller closes the file. ``reader``: see ``Directory``.

        Raises NotFound, and ServiceUnavailable when too many files are open or the wheel is being built.
        """
        if name == build.WHEEL:
            self._own.provide()
        wheel, file = self._directory.open(name, reader)
        if wheel.project != project:
            file.close()
            raise NotFound(f"there is no package file '{name}' of '{project[:200]}' here")
        return wheel, file


class OwnWheel:
    """Keeps the wheel of the release tree ``root`` in ``directory``.

    It is built at most once for each state of the sources, when it is first asked for. A wheel of this name
    that an administrator put there stays as it is: a record says which one was built here.
    """

    def __init__(self, directory: Path, root: Path = build.ROOT):
        self._directory, self._root = directory, root
        self._file = directory / build.WHEEL
        self._record = directory / ".built.json"
        self._checked = False
        self._retry_at = 0.0

    def provide(self) -> None:
        """Build the wheel if it is missing or of other sources. A failure is logged, and tried again later.

        Raises ServiceUnavailable when there is no wheel yet and another thread or process is building it.
        """
        if self._checked and self._present() or time.monotonic() < self._retry_at:
            return
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock():
                sources = build.digest(self._root)
                if not self._kept(sources):
                    self._build(sources)
            self._checked = True
        except BlockingIOError:
            if not self._present():
                raise ServiceUnavailable("the package is being built: try again") from None
        except (build.BuildError, OSError) as error:
            self._retry_at = time.monotonic() + RETRY
            state = "may have an outdated wheel" if self._present() else "does not have the wheel"
            log.warning("/packages/ %s of this release: %s", state, error)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Exclude other threads and processes. Raises BlockingIOError when one of them has the lock."""
        descriptor = append_private(self._directory / ".lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(descriptor)

    def _present(self) -> bool:
        """Whether there is a wheel that can be served: links and pipes cannot."""
        return os.path.isfile(self._file) and not os.path.islink(self._file)

    def _kept(self, sources: str) -> bool:
        """Whether the wheel that is there stays: it is current, or was not built here. Raises BuildError."""
        if not os.path.lexists(self._file):
            return False
        if not self._present():
            raise build.BuildError(f"{self._file} is not a regular file: replace it with a copy of the wheel")
        content = self._file.read_bytes()
        try:
            record = json.loads(self._record.read_bytes())
            built = record["sha256"] == hashlib.sha256(content).hexdigest()
            return not built or record["sources"] == sources
        except (OSError, ValueError, KeyError, TypeError):
            return True

    def _build(self, sources: str) -> None:
        # the draft is on the same file system, so that it can be renamed
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=self._directory) as draft:
            wheel = build.build(Path(draft), self._root)
            record = {"sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(), "sources": sources}
            # in this order a crash in between leaves no wheel, and never one that is missing from the record
            self._file.unlink(missing_ok=True)
            write_private(self._record, json.dumps(record))
            os.replace(wheel, self._file)
        log.info("built %s for /packages/, sha256 %s", build.WHEEL, record["sha256"])
