"""Sends spooled reports and keeps them until the service has taken them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable

from umbel.protocol.envelope import unverified_header

from .backlog import Backlog
from .sender import LOOK_INTERVAL, Sender
from .spool import Entry, Spool
from .tally import Tally

log = logging.getLogger(__name__)

#: A report that cannot be read from the spool is tried again after this long (seconds).
UNREADABLE_DELAY = 60.0


class Delivery:
    """The reports of one node, from the spool to the ledger. ``tally`` counts them by bundle."""

    def __init__(self, spool: Spool, sender: Sender, tally: Tally):
        self._spool, self._sender, self._tally = spool, sender, tally
        self._backlog = Backlog()
        #: reports that were pushed, with their positions, which grow
        self._pushed: deque[tuple[int, Entry]] = deque()

    @property
    def waiting(self) -> bool:
        """Whether a report is to be sent."""
        return bool(self._backlog)

    @property
    def unacknowledged(self) -> bool:
        """Whether a report was sent and not taken."""
        return bool(self._pushed)

    def append(self, entry: Entry) -> None:
        """Send this report, whose bundles are counted as unsent."""
        self._backlog.append(entry)

    def load(self, entries: Iterable[Entry]) -> None:
        """Send these reports of an earlier run or of another node."""
        for entry in entries:
            self._tally.add(entry.bundles)
            self._backlog.append(entry)

    def acknowledge(self, applied: int) -> bool:
        """Forget the reports up to this position, which the service has taken; return whether any was."""
        count = 0
        while self._pushed and self._pushed[0][0] <= applied:
            _, entry = self._pushed.popleft()
            self._spool.remove(entry)
            self._tally.acknowledged(entry.bundles)
            count += 1
        return count > 0

    def send_again(self) -> None:
        """Send all reports that were not taken again, in their order: the list may have been lost."""
        self._backlog.put_back([entry for _, entry in self._pushed])
        while self._pushed:
            _, entry = self._pushed.pop()
            self._tally.unsend(entry.bundles)

    def send(self, interrupted: Callable[[], bool]) -> float:
        """Push small reports and one piece of a large one; return the delay before the next ones.

        ``interrupted``: whether something else is due. Raises BROKER_ERRORS and KeysLost.
        """
        while (entry := self._backlog.next(self._sender.is_large)) is not None:
            if self._sender.blocked():
                return LOOK_INTERVAL
            try:
                data = self._spool.read(entry)
            except OSError as error:
                self._set_aside(entry, error)
                continue
            if not self._sender.is_large(entry.size):
                position: int | None = self._sender.push(data, self._spool.write_rest)
            else:
                position = self._sender.advance(str(unverified_header(data)["id"]), data)
            if position is None:
                return 0.0
            self._sent(entry, position)
            if interrupted():
                return 0.0
        return UNREADABLE_DELAY

    def _set_aside(self, entry: Entry, error: OSError) -> None:
        """Send others before a report that cannot be read; forget it if it is gone."""
        if isinstance(error, FileNotFoundError):
            log.error("a report is missing from the spool: %s", entry.path)
            self._backlog.remove(entry)
            self._spool.remove(entry)
            self._tally.drop(entry.bundles)
        else:
            log.error("report %s cannot be read from the spool: %s; trying again later", entry.path, error)
            self._backlog.postpone(entry, UNREADABLE_DELAY)

    def _sent(self, entry: Entry, position: int) -> None:
        self._backlog.remove(entry)
        self._pushed.append((position, entry))
        self._tally.sent(entry.bundles)
        self._spool.release(entry)
