"""Supervises child processes in one thread: starts them, restarts them when they exit, stops them in order.

A ``Supervisor`` sleeps until a child exits, a stop signal arrives or a restart is due; nothing is polled.
Children write directly to their log files, so no output is lost if this process is killed. On Linux the
kernel signals the children when this process dies for any reason.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from umbel.system.files import append_private
from umbel.system.processes import end_with_parent

from .processes import KILL_GRACE, describe, kill_processes, process_tree

log = logging.getLogger(__name__)

#: Delay before the first restart of a child, and maximum; the delay doubles each time, seconds.
FIRST_DELAY = 0.1
MAX_DELAY = 15.0
#: After a child has run for this long, its restart delay is reset, seconds.
RECOVERED_AFTER = 30.0


@dataclass(frozen=True)
class Spec:
    """How to run one child.

    ``environ``: its complete environment (None: this process's). ``death_signal``: sent to it when this
    process dies. ``grace``: seconds from the stop request to the kill. Children of a lower ``rank`` are
    stopped first.
    """

    name: str
    argv: Sequence[str]
    cwd: Path
    environ: Mapping[str, str] | None = None
    death_signal: signal.Signals = signal.SIGKILL
    grace: float = 2.0
    rank: int = 0


@dataclass
class Child:
    """One child and its state.

    ``status``: return code of its last process that ended; ``exits``: how many have ended; ``due``: when to
    start the next one (monotonic seconds), None while one runs.
    """

    spec: Spec
    log_file: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    exits: int = 0
    status: int | None = None
    delay: float = FIRST_DELAY
    due: float | None = field(default=0.0)

    @property
    def pid(self) -> int | None:
        """The process id while the child runs, else None."""
        return self.process.pid if self.process is not None else None

    def start(self) -> None:
        """Run the child in its own session, with output to its log file. Raises OSError."""
        output = append_private(self.log_file)
        try:
            self.process = subprocess.Popen(
                list(self.spec.argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.spec.cwd,
                env=self.spec.environ,
                start_new_session=True,
                preexec_fn=partial(end_with_parent, os.getpid(), self.spec.death_signal),
            )
        finally:
            os.close(output)
        self.started = time.monotonic()
        self.due = None

    def record_exit(self, status: int) -> None:
        """Record that the process ended and schedule its restart."""
        now = time.monotonic()
        if now - self.started >= RECOVERED_AFTER:
            self.delay = FIRST_DELAY
        self.process = None
        self.status = status
        self.exits += 1
        self.due = now + self.delay
        log.warning("%s exited (%s); restarting in %.1f s", self.spec.name, describe(status), self.delay)
        self.delay = min(self.delay * 2, MAX_DELAY)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the child's process group; does nothing if the child is gone."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                pass


class Supervisor:
    """Keeps children running. Use as a context manager in the main thread; it installs signal handlers.

    SIGTERM, SIGINT or SIGHUP sets ``stopping``; a second one kills the children at once. ``changed`` is
    called after a child has started or exited.
    """

    def __init__(self, logs: Path, changed: Callable[[], object] = lambda: None):
        self.children: dict[str, Child] = {}
        self.stopping = False
        self.kill_now = False
        self._logs = logs
        self._changed = changed
        self._restore: list[tuple[int, Any]] = []

    def __enter__(self) -> Supervisor:
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._old_wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._restore.append((number, signal.signal(number, self._on_stop_signal)))
        # SIGCHLD writes to the wake-up pipe only if it has a handler, even an empty one
        self._restore.append((signal.SIGCHLD, signal.signal(signal.SIGCHLD, lambda *_: None)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            signal.set_wakeup_fd(self._old_wakeup)
            for number, handler in self._restore:
                signal.signal(number, handler)
            self._selector.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def add(self, spec: Spec) -> Child:
        """Start a child and keep it running. Raises OSError if it cannot be started."""
        child = Child(spec, self._logs / f"{spec.name}.log")
        child.start()
        self.children[spec.name] = child
        self._changed()
        return child

    def step(self, timeout: float) -> None:
        """Sleep for at most ``timeout`` seconds or until an event; restart children that are due."""
        now = time.monotonic()
        dues = [child.due - now for child in self.children.values() if child.due is not None]
        self._sleep(max(0.0, min([timeout, *dues])))
        self._reap()
        if self.stopping:
            return
        now = time.monotonic()
        for child in self.children.values():
            if child.due is not None and child.due <= now:
                self._restart(child)

    def stop(self) -> None:
        """Stop all children, rank by rank, each within its grace; kill the remaining process trees."""
        self.stopping = True
        for rank in sorted({child.spec.rank for child in self.children.values()}):
            self._stop_rank([child for child in self.children.values() if child.spec.rank == rank])
        self.children.clear()
        self._changed()

    def _stop_rank(self, children: list[Child]) -> None:
        alive = [child for child in children if child.process is not None]
        trees = {child.spec.name: process_tree(child.pid) for child in alive}
        for child in alive:
            child.signal_group(signal.SIGTERM)
        deadline = time.monotonic() + max((child.spec.grace for child in alive), default=0.0)
        while self._running(alive) and time.monotonic() < deadline and not self.kill_now:
            self._sleep(deadline - time.monotonic())
        for child in self._running(alive):
            log.warning("%s did not stop within %.1f s; killing it", child.spec.name, child.spec.grace)
        for child in alive:
            kill_processes(trees[child.spec.name])
            if child.process is not None:
                child.process.wait(KILL_GRACE)

    @staticmethod
    def _running(children: list[Child]) -> list[Child]:
        return [child for child in children if child.process is not None and child.process.poll() is None]

    def _reap(self) -> None:
        for child in self.children.values():
            status = child.process.poll() if child.process is not None else None
            if status is not None:
                child.record_exit(status)
                self._changed()

    def _restart(self, child: Child) -> None:
        try:
            child.start()
        except OSError as error:
            # may be temporary, for example a full disk or too many processes
            log.error("%s could not be restarted: %s", child.spec.name, error)
            child.due = time.monotonic() + child.delay
            child.delay = min(child.delay * 2, MAX_DELAY)
        self._changed()

    def _sleep(self, seconds: float) -> None:
        if self._selector.select(max(0.0, seconds)):
            try:
                os.read(self._wake_read, 4096)
            except BlockingIOError:
                pass

    def _on_stop_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.kill_now = self.stopping
        self.stopping = True
