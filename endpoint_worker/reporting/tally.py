"""Which bundles have reports that are not in the ledger yet."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable


class Tally:
    """Counts the reports of each bundle that are not sent, and those that are not acknowledged. Thread-safe.

    A bundle with several reports in either state is in it several times.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unsent: Counter[str] = Counter()
        self._unacknowledged: Counter[str] = Counter()

    @property
    def unsent(self) -> list[str]:
        """Bundles with a report that was not pushed."""
        with self._lock:
            return list(self._unsent)

    @property
    def held(self) -> list[str]:
        """Bundles with a report that was not pushed or is not acknowledged."""
        with self._lock:
            return list({*self._unsent, *self._unacknowledged})

    def holds(self, bundle: str) -> bool:
        """Return whether a bundle has such a report."""
        with self._lock:
            return bundle in self._unsent or bundle in self._unacknowledged

    def add(self, bundles: Iterable[str], instead: Iterable[str] = ()) -> None:
        """Count reports that are not sent, in place of ``instead``."""
        with self._lock:
            self._unsent.update(bundles)
            _discount(self._unsent, instead)

    def drop(self, bundles: Iterable[str]) -> None:
        """Forget a report that will not be sent."""
        with self._lock:
            _discount(self._unsent, bundles)

    def sent(self, bundles: Iterable[str]) -> None:
        """Record that a report was pushed."""
        with self._lock:
            self._unacknowledged.update(bundles)
            _discount(self._unsent, bundles)

    def unsend(self, bundles: Iterable[str]) -> None:
        """Record that a pushed report must be pushed again."""
        with self._lock:
            self._unsent.update(bundles)
            _discount(self._unacknowledged, bundles)

    def acknowledged(self, bundles: Iterable[str]) -> None:
        """Record that the service has taken a report."""
        with self._lock:
            _discount(self._unacknowledged, bundles)


def _discount(counter: Counter[str], bundles: Iterable[str]) -> None:
    for bundle in bundles:
        counter[bundle] -= 1
        if counter[bundle] <= 0:
            del counter[bundle]
