"""The exit of the interpreter: unsent calls are submitted, else stored, and the exit status says so."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

from .calls import Batch
from .spool import Spool

logger = logging.getLogger(__name__)

#: After this long (seconds) a program that waits for the service says so.
PATIENT_SILENCE = 2.0
#: How long (seconds) Ctrl-C may go unnoticed while it waits.
UNNOTICED = 0.1


class Unfinished(Protocol):
    """What the exit needs of a session."""

    @property
    def patience(self) -> float:
        """How long the exit waits for its calls (seconds)."""

    @property
    def submitted_calls(self) -> int:
        """Number of calls that were submitted with it."""

    @property
    def spool(self) -> Spool | None:
        """Where its calls are stored; None: nowhere."""

    def flush_at_exit(self, timeout: float) -> bool:
        """Wait until nothing is unsent; False after ``timeout`` seconds."""

    def take_unsent(self) -> list[Batch]:
        """Remove and return what the service has not accepted."""

    def store(self, batch: Batch) -> None:
        """Store a batch in the spool. Raises OSError."""


S = TypeVar("S", bound=Hashable)


class Rejects(Generic[S]):
    """Batches that the service did not accept, by session, while programs may not know it. Thread-safe.

    A program that asks any of their futures for its outcome knows, and handles the failure. Above a number of
    calls or of bytes the oldest batches are dropped.
    """

    def __init__(self, most_calls: int, most_bytes: int):
        self._most_calls, self._most_bytes = most_calls, most_bytes
        self._lock = threading.Lock()
        self._batches: deque[tuple[S, Batch]] = deque()
        self._calls = self._bytes = 0

    def add(self, session: S, batches: Iterable[Batch]) -> None:
        """Add batches of a session."""
        with self._lock:
            for batch in batches:
                self._batches.append((session, batch))
                self._count(batch, 1)
            while len(self._batches) > 1 and (
                self._calls > self._most_calls or self._bytes > self._most_bytes
            ):
                self._count(self._batches.popleft()[1], -1)

    def of(self, session: S) -> list[Batch]:
        """Return the batches of a session; none if the program knows that one of them failed."""
        with self._lock:
            found = [batch for owner, batch in self._batches if owner is session]
        return [] if any(future.observed for batch in found for future in batch.futures) else found

    def sessions(self) -> set[S]:
        """Return the sessions that have batches."""
        with self._lock:
            return {session for session, _ in self._batches}

    def clear(self) -> None:
        """Forget all batches."""
        self.__init__(self._most_calls, self._most_bytes)  # type: ignore[misc]

    def _count(self, batch: Batch, sign: int) -> None:
        self._calls += sign * len(batch.calls)
        self._bytes += sign * sum(len(call.payload) for call in batch.calls)


def submit_or_store(sessions: Sequence[Unfinished]) -> None:
    """Wait until the sessions' calls are accepted, and store the others. Ctrl-C ends the wait."""
    try:
        with _noting_interrupts() as interrupts:
            _wait(sessions, interrupts)
    except KeyboardInterrupt:
        pass  # the program handles signals itself
    total = unsent = stored = 0
    folder, reasons = "", []
    for session in sessions:
        total += session.submitted_calls
        for batch in session.take_unsent():
            unsent += len(batch.calls)
            try:
                session.store(batch)
                stored += len(batch.calls)
                folder = str(session.spool.folder) if session.spool is not None else ""
            except OSError as error:
                reasons.append(str(error))
    if not unsent:
        return
    kept = f"; {stored} are kept in {folder}: the next program of this user, or 'umbel flush', submits them"
    lost = f"; {unsent - stored} are lost: {reasons[0]}" if reasons else ""
    logger.error("%d of %d calls were not submitted%s%s", unsent, total, kept if stored else "", lost)
    fail_exit()


def _wait(sessions: Sequence[Unfinished], interrupts: Sequence[int]) -> None:
    started = time.monotonic()
    told = False
    for session in sessions:
        deadline = started + session.patience
        if not told:
            accepted = _flush(session, min(deadline, started + PATIENT_SILENCE), interrupts)
            told = not accepted and not interrupts
            if told:
                logger.warning(
                    "waiting up to %.0f s for the service to accept the remaining calls; Ctrl-C stores them",
                    max(0.0, deadline - time.monotonic()),
                )
        _flush(session, deadline, interrupts)


def _flush(session: Unfinished, deadline: float, interrupts: Sequence[int]) -> bool:
    """Wait until nothing is unsent; False after the deadline, or after Ctrl-C."""
    while not interrupts:
        left = deadline - time.monotonic()
        if session.flush_at_exit(max(0.0, min(UNNOTICED, left))):
            return True
        if left <= 0:
            return False
    return False


@contextmanager
def _noting_interrupts() -> Iterator[list[int]]:
    """Yield a list to which each Ctrl-C adds its signal.

    A KeyboardInterrupt may be raised between the moment a lock is acquired and the start of the block that
    releases it. The calls behind that lock could not be stored.
    """
    noted: list[int] = []
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield noted
        return
    signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def fail_exit() -> None:
    """Let this process exit with status 120, Python's status for an error in the cleanup after the program.

    The handlers of ``atexit`` cannot set the status. The interpreter sets it when the standard streams cannot
    be flushed after them, so standard error gets a wrapper that fails then.
    """
    if not isinstance(sys.stderr, _FailingStream):
        sys.stderr = _FailingStream(sys.stderr)


class _FailingStream:
    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def closed(self) -> bool:
        return False

    def write(self, text: str) -> int:
        return int(self._stream.write(text)) if self._stream is not None else len(text)

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()
        if sys._getframe().f_back is None:  # called by the interpreter, not by Python code
            raise OSError("calls were not submitted")
