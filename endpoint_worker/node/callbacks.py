"""Callbacks that may block, run in a thread of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import SimpleQueue

from umbel.system.threads import GuardedThread

log = logging.getLogger(__name__)


class CallbackThread:
    """Runs callbacks one after another, so that other threads need not wait for them."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[list[Callable[[], None]] | None] = SimpleQueue()
        self._thread = GuardedThread(self._run, name="umbel-callbacks")

    def start(self) -> None:
        """Start the thread; does nothing if it was started before."""
        if self._thread.ident is None:
            self._thread.start()

    def submit(self, callbacks: list[Callable[[], None]]) -> None:
        """Run these callbacks soon."""
        self._queue.put(callbacks)

    def close(self, timeout: float) -> None:
        """Run the remaining callbacks and end."""
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        """Run callbacks until ``close``."""
        while (callbacks := self._queue.get()) is not None:
            for callback in callbacks:
                try:
                    callback()
                except Exception:
                    # Celery's bookkeeping over a broken connection may raise anything; bundles continue
                    log.warning("cannot report the progress of a bundle to Celery", exc_info=True)
