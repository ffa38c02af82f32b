"""When the reconcilers of all elastic endpoints run: after a change, or when their last round said.

One loop looks for changes at all endpoints at once, so an endpoint at which nothing happens costs nothing.
Each round runs in a thread of its own, so a site that answers slowly does not delay the others.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection
from typing import Protocol

from umbel.protocol.errors import NotFound

from ..context import Federation
from ..db.errors import RETRYABLE
from ..process import Stop
from .planning import demand
from .reconciler import RECONCILE_INTERVAL
from .records import changes

log = logging.getLogger(__name__)

#: Seconds between two looks for changes, with and without elastic endpoints.
LOOK_INTERVAL, IDLE_LOOK_INTERVAL = 1.0, 3.0
#: Seconds between two looks for work at endpoints without blocks: users wait for the first block.
WORK_POLL_INTERVAL = 0.2
#: Pause of an endpoint after an unexpected error, seconds.
RESTART_PAUSE = 30.0


class Rounder(Protocol):
    """What runs the rounds of one endpoint: a ``Reconciler``."""

    def run_once(self) -> float:
        """Run a round; return the seconds until the next one is due. Raises NotFound if the site is gone."""

    def close(self) -> None:
        """Close its connections."""


class Rounds:
    """The rounds of all endpoints. ``open_one``: returns the reconciler of an endpoint, by its number."""

    def __init__(self, fed: Federation, open_one: Callable[[int], Rounder]):
        self._fed, self._open_one = fed, open_one
        self._reconcilers: dict[int, Rounder] = {}
        self._states: dict[int, changes.State] = {}
        # times of the monotonic clock; infinite while a round runs
        self._due: dict[int, float] = {}
        self._began: dict[int, float] = {}
        self._working: set[int] = set()
        self._running: dict[int, threading.Thread] = {}
        self._lock = threading.Lock()

    def run(self, stop: Stop) -> None:
        """Run rounds until ``stop``; a round under way has ten seconds to end."""
        while not stop.is_set():
            try:
                self._run_for_a_look(stop)
            except RETRYABLE as error:
                log.warning("provisioner: retrying: %s", error)
                stop.wait(IDLE_LOOK_INTERVAL)
        self.close(10.0)

    def _run_for_a_look(self, stop: Stop) -> None:
        self.look()
        self.start_due()
        if not self._states:
            stop.wait(IDLE_LOOK_INTERVAL)
            return
        until = time.monotonic() + LOOK_INTERVAL
        while time.monotonic() < until and not stop.wait(WORK_POLL_INTERVAL):
            self.look_for_work()
            self.start_due()

    def look(self) -> None:
        """Find endpoints that are new, have changed, or are gone; their rounds are due."""
        with self._fed.database.read() as connection:
            found = changes.states(connection)
        changed = {no for no, state in found.items() if self._states.get(no) != state}
        gone = self._states.keys() - found.keys()
        self._states = found
        with self._lock:
            for no in changed | gone:
                self._due[no] = self._began.get(no, -math.inf) + RECONCILE_INTERVAL

    def look_for_work(self) -> None:
        """Find endpoints without blocks that have work since the last look; their rounds are due at once."""
        with self._fed.database.read() as connection:
            now = demand.endpoints_without_blocks(connection)
        self._make_due((now - self._working) & self._states.keys())
        self._working = now

    def _make_due(self, numbers: Collection[int]) -> None:
        with self._lock:
            self._due.update(dict.fromkeys(numbers, -math.inf))

    def start_due(self) -> None:
        """Start the rounds that are due."""
        now = time.monotonic()
        with self._lock:
            for no in [no for no, due in self._due.items() if due <= now and no not in self._running]:
                thread = threading.Thread(target=self._run_round, args=(no,), name=f"round-{no}", daemon=True)
                self._due[no], self._began[no], self._running[no] = math.inf, now, thread
                thread.start()

    def _run_round(self, no: int) -> None:
        pause: float | None = RECONCILE_INTERVAL
        try:
            if no not in self._reconcilers:
                self._reconcilers[no] = self._open_one(no)
            pause = self._reconcilers[no].run_once()
        except NotFound:
            pause = None
        except RETRYABLE as error:
            log.warning("endpoint %d: provisioner: retrying: %s", no, error)
        except Exception:
            # an error of one endpoint must not stop the others
            log.exception("endpoint %d: unexpected error in the provisioner; restarting", no)
            self._close(no)
            pause = RESTART_PAUSE
        finally:
            self._ended(no, pause)

    def _ended(self, no: int, pause: float | None) -> None:
        """Note when the next round is due: in ``pause`` seconds, or never."""
        if pause is None:
            self._close(no)
        with self._lock:
            del self._running[no]
            if pause is None:
                del self._due[no], self._began[no]
            else:
                self._due[no] = min(self._due[no], time.monotonic() + pause)

    def _close(self, no: int) -> None:
        reconciler = self._reconcilers.pop(no, None)
        if reconciler is not None:
            reconciler.close()

    def close(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for rounds under way, and close the reconcilers."""
        deadline = time.monotonic() + timeout
        for thread in list(self._running.values()):
            thread.join(max(0.0, deadline - time.monotonic()))
        for no in [no for no in self._reconcilers if no not in self._running]:
            self._close(no)
