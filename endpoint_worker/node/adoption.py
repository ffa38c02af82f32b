"""Reports that nodes of this endpoint left when they ended, for example those of a batch job that was killed.

Each node that runs adopts them: it moves the files into its own spool, so that exactly one node gets each
file, and sends them unchanged; they are signed by the endpoint.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from ..config.directory import EndpointDirectory
from ..config.identity import host
from ..reporting.spool import LEASE, SUFFIX

log = logging.getLogger(__name__)

#: Seconds between two searches, and number of directories that one search looks at, chosen at random.
INTERVAL, MAX_DIRECTORIES = 60.0, 64
#: A node on another host has ended when its lease has not changed for this long (seconds). File locks are not
#: reliable between the hosts of a shared file system.
LEASE_SECONDS = 60.0


class Adoption:
    """Finds reports of ended nodes for ``node``; ``adopt`` receives the files after they were moved."""

    def __init__(self, directory: EndpointDirectory, node: str, adopt: Callable[[list[Path]], None]):
        self._directory, self._node, self._adopt = directory, node, adopt
        self._next = 0.0
        #: by node: content of the lease, and when (monotonic clock) this process saw it first
        self._leases: dict[str, tuple[str, float]] = {}

    def poll(self) -> None:
        """Search if it is time to."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + INTERVAL
        try:
            spools = [path for path in self._directory.spool.iterdir() if path.name != self._node]
        except OSError as error:
            log.debug("the spool directory cannot be read: %s", error)
            return
        for spool in random.sample(spools, min(len(spools), MAX_DIRECTORIES)):
            try:
                self._look(spool)
            except FileNotFoundError:
                continue  # another node was faster
            except OSError as error:
                log.warning("reports in %s cannot be adopted: %s", spool, error)
        if self._leases:
            self._next = time.monotonic() + min(INTERVAL, LEASE_SECONDS / 4)

    def _look(self, spool: Path) -> None:
        files = sorted(file for file in spool.iterdir() if file.suffix == SUFFIX)
        if not files or not self._ended(spool):
            return
        moved = []
        for file in files:
            target = self._directory.spool / self._node / file.name
            try:
                os.rename(file, target)
            except FileNotFoundError:
                continue  # another node was faster
            moved.append(target)
        self._leases.pop(spool.name, None)
        (spool / LEASE).unlink(missing_ok=True)
        self._directory.forget(spool.name)
        if moved:
            log.info("adopted %d reports of node %s, which has ended", len(moved), spool.name)
            self._adopt(moved)

    def _ended(self, spool: Path) -> bool:
        node = spool.name
        if self._directory.locked(node):
            return False
        try:
            lease = (spool / LEASE).read_text()
        except FileNotFoundError:
            return True  # it ended in an orderly way
        if self._directory.host_of(node) == host():
            return True  # on this host, the lock is reliable
        seen, since = self._leases.get(node, ("", 0.0))
        if seen != lease:
            self._leases[node] = (lease, time.monotonic())
            return False
        return time.monotonic() - since >= LEASE_SECONDS
