"""Reports on disk until the service has taken them.

A spool is a directory of one node: one file per report, named so that they sort by age. The file ``lease``
changes while its node runs. Reports that cannot be written wait in memory until there is room.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from umbel.protocol import names
from umbel.protocol.envelope import unverified_header
from umbel.protocol.errors import ProtocolError

log = logging.getLogger(__name__)

SUFFIX = ".report"
#: A file that is not a report, or that was cut short by a crash, is renamed to this.
DAMAGED = ".damaged"
LEASE = "lease"
#: Bytes of spooled reports that are kept in memory, too, so that they need not be read again.
KEPT_BYTES = 32 * 1024 * 1024
#: The spool is considered full when this many bytes wait in memory because they cannot be written.
FULL_BYTES = 64 * 1024 * 1024
#: Seconds between two log lines about one problem.
LOG_INTERVAL = 60.0


@dataclass(eq=False)
class Entry:
    """A report that the service has not taken.

    ``data``: its bytes, None if they are only on disk; ``bundles``: their ids.
    """

    path: Path
    size: int
    data: bytes | None
    bundles: tuple[str, ...]
    written: bool = True


class Spool:
    """The reports of one node in ``directory``. Not thread-safe."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._kept = 0
        self._unwritten: list[Entry] = []
        self._logged = float("-inf")
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def full(self) -> bool:
        """True while too much waits in memory because it cannot be written."""
        return sum(entry.size for entry in self._unwritten) >= FULL_BYTES

    @property
    def unwritten(self) -> bool:
        """True while a report is in memory only."""
        return bool(self._unwritten)

    def load(self, files: Iterable[Path] | None = None) -> list[Entry]:
        """Return the reports of an earlier run, oldest first, or of these files."""
        entries = []
        for path in sorted(self.directory.iterdir() if files is None else files):
            if path.suffix == SUFFIX:
                entry = self._load(path)
                if entry is not None:
                    entries.append(entry)
            elif path.suffix == ".tmp":
                path.unlink(missing_ok=True)
        return entries

    def add(self, data: bytes, bundles: tuple[str, ...], *, keep: bool, later: bool = False) -> Entry:
        """Write a report; ``keep``: it is sent soon, so keep its bytes in memory if there is room.

        ``later``: it is not written before ``write_rest``.
        """
        path = self.directory / f"{time.time_ns():020d}-{names.new_id()[:8]}{SUFFIX}"
        entry = Entry(path, len(data), data, bundles, written=False)
        self._kept += entry.size
        if later or not self._write(entry):
            self._unwritten.append(entry)
        elif not keep or self._kept > KEPT_BYTES:
            self._forget_bytes(entry)
        return entry

    def write_rest(self) -> None:
        """Write what is in memory only."""
        while self._unwritten and self._write(self._unwritten[0]):
            self._forget_bytes(self._unwritten.pop(0))

    def read(self, entry: Entry) -> bytes:
        """Return a report's bytes. Raises OSError; FileNotFoundError if it is gone."""
        return entry.path.read_bytes() if entry.data is None else entry.data

    def release(self, entry: Entry) -> None:
        """Keep a report that was sent on disk only, if it is there."""
        if entry.written:
            self._forget_bytes(entry)

    def remove(self, entry: Entry) -> None:
        """Remove a report that the service has taken, or that is lost."""
        self._forget_bytes(entry)
        if not entry.written:
            self._unwritten.remove(entry)
            return
        try:
            entry.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("report %s was taken but cannot be removed from the spool: %s", entry.path, error)

    def leave(self) -> None:
        """Remove the lease: the spool's node has ended."""
        for name in (LEASE, f".{LEASE}"):
            try:
                (self.directory / name).unlink(missing_ok=True)
            except OSError as error:
                log.debug("%s cannot be removed: %s", name, error)

    def renew(self, content: str) -> None:
        """Write the lease, whose changing content shows other nodes that this one runs."""
        draft = self.directory / f".{LEASE}"
        try:
            draft.write_text(content)
            os.replace(draft, self.directory / LEASE)
        except FileNotFoundError:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.debug("the lease of %s cannot be written: %s", self.directory, error)

    def _load(self, path: Path) -> Entry | None:
        try:
            data = path.read_bytes()
            outcomes = unverified_header(data).get("outcomes")
        except ProtocolError:
            log.error("spooled report %s is damaged; it is renamed and not sent", path)
            path.replace(path.with_suffix(DAMAGED))
            return None
        except OSError as error:
            log.error("spooled report %s cannot be read: %s; trying again at the next start", path, error)
            return None
        # the bundles count as held until their outcomes are taken, so that the service does not send them
        # again
        bundles = tuple(map(str, outcomes)) if isinstance(outcomes, dict) else ()
        return Entry(path, len(data), None, bundles)

    def _write(self, entry: Entry) -> bool:
        assert entry.data is not None
        draft = entry.path.with_suffix(".tmp")
        try:
            try:
                draft.write_bytes(entry.data)
            except FileNotFoundError:
                self.directory.mkdir(parents=True, exist_ok=True)
                draft.write_bytes(entry.data)
            os.replace(draft, entry.path)
        except OSError as error:
            if time.monotonic() - self._logged >= LOG_INTERVAL:
                self._logged = time.monotonic()
                log.error(
                    "reports cannot be written to %s: %s; %d wait in memory only",
                    self.directory,
                    error,
                    len(self._unwritten) + 1,
                )
            return False
        entry.written = True
        return True

    def _forget_bytes(self, entry: Entry) -> None:
        if entry.data is not None:
            self._kept -= entry.size
            entry.data = None
