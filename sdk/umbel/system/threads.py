"""Threads that must not end in silence.

A background thread that ends by an unexpected exception leaves whoever waits for it waiting indefinitely. A
``GuardedThread`` logs the exception with its traceback and then does what its owner chose: it runs its target
again, or it calls the owner's handler, which ends the process or fails the futures that depend on it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

#: Pause before a target that failed runs again, seconds: doubled by each failure in a row, up to the maximum.
FIRST_PAUSE = 0.1
MAX_PAUSE = 30.0
#: A target that ran this long before it failed starts with the first pause again, seconds.
STABLE_AFTER = 60.0


class GuardedThread(threading.Thread):
    """A daemon thread whose target is run again, or whose owner is told, when it raises.

    The target must cope with being called again after it raised anywhere. It ends the thread by returning.

    Args:
        target: What to run, without arguments.
        name: Name of the thread, for logs.
        on_failure: Called in this thread with the exception instead of running ``target`` again; the thread
            ends afterwards. None: run ``target`` again after a pause.
        stop: When set, ``target`` is not run again, and a pause ends early.
    """

    def __init__(
        self,
        target: Callable[[], object],
        *,
        name: str,
        on_failure: Callable[[BaseException], object] | None = None,
        stop: threading.Event | None = None,
    ):
        super().__init__(name=name, daemon=True)
        self._guarded = target
        self._on_failure = on_failure
        self._stop_event = stop or threading.Event()

    def run(self) -> None:
        """Run the target until it returns, or until its failure ends the thread."""
        pause = FIRST_PAUSE
        while True:
            started = time.monotonic()
            try:
                self._guarded()
                return
            except BaseException as error:  # noqa: B902 - SystemExit in a thread is silent, too
                if self._on_failure is not None:
                    log.exception("thread %s: unexpected error; it ends", self.name)
                    self._on_failure(error)
                    return
                if time.monotonic() - started >= STABLE_AFTER:
                    pause = FIRST_PAUSE
                log.exception("thread %s: unexpected error; it runs again in %.1f s", self.name, pause)
            if self._stop_event.wait(pause):
                return
            pause = min(2 * pause, MAX_PAUSE)
