"""Outcomes of the calls of one bundle in one runner.

An ``Execution`` turns records in shared memory, frames on the socket and the runner's death into exactly one
outcome per call. It trusts data from the runner only within the runner's own bundle.
"""

# One concept: all ways in which the calls of a bundle end, each exactly once.

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from umbel.protocol.messages import Outcome, Status
from umbel.protocol.records import Items, Log, Place

from ..ipc.output import OutputReader
from ..ipc.shared_memory import LIMIT_DELAY, SKIPPED, SUCCEEDED, WROTE, SharedProgress
from ..ipc.stream import Stream
from .job import Job
from .usage_record import read_usage_record

#: When a call, or a bundle, runs longer than this (seconds), the calls behind it are returned.
RETURN_AFTER_CALL = 0.1
RETURN_AFTER_BUNDLE = 0.25
#: A call that runs longer than this (seconds) is reported as running.
REPORT_RUNNING_AFTER = 0.2
#: Interval for reporting finished calls (seconds) while the bundle continues: each report is a transaction at
#: the service.
REPORT_ENDS_INTERVAL = 0.1
#: Output of a running call is reported at this interval (seconds), at a lower rate if there is much of it
#: (bytes per second) or if the call runs long (share of its run time), with a maximum interval (seconds).
REPORT_OUTPUT_INTERVAL, OUTPUT_RATE, OUTPUT_SHARE, REPORT_OUTPUT_LATEST = 1.0, 32 * 1024, 1 / 60, 10.0


class StopReason(NamedTuple):
    """Why a running call must be stopped, and the outcome to report for it."""

    call: int
    status: str
    code: str | None
    message: str


class Execution:
    """A bundle in a runner.

    ``now`` is always the monotonic clock; ``output`` reads what calls write, ``place`` is where they run.
    """

    def __init__(self, job: Job, progress: SharedProgress, output: OutputReader, place: Place, now: float):
        self.job = job
        self.calls = job.bundle.calls
        self.began = now
        self.stop_reason: StopReason | None = None
        self._progress = progress
        self._output = output
        self._place = place
        # offset from the monotonic clock to seconds since 1970
        self._epoch = time.time() - now
        self._position = 0
        # ends that were read but not reported yet
        self._ends: list[Outcome] = []
        self._ended = bytearray(len(self.calls))
        self._closing: float | None = None
        self._closed = False
        self._reported = -1
        self._ends_reported_at = now
        # when output of the running call was last reported, and how many bytes
        self._output_reported_at, self._reported_bytes = now, 0
        # items of the running call
        self._stream: Stream | None = None
        # for a dead runner: the call it was running and the output of that call
        self._final_output: tuple[int, Log | None] = -1, None
        progress.reset(len(self.calls), now)
        for index, call in enumerate(self.calls):
            if call.task_id in job.cancelled:
                progress.skip[index] = 1

    def running(self) -> int | None:
        """Index of the running call; None while the function is loaded and between calls."""
        started = self._progress.started
        return started - 1 if self._progress.finished < started <= len(self.calls) else None

    def new_outcomes(self, now: float) -> list[Outcome]:
        """Return new outcomes: finished calls, returned calls, and a call that has been running for long."""
        outcomes: list[Outcome] = []
        # read incrementally: at the end of the bundle the slot must not wait for this
        self._read_ends()
        if now - self._ends_reported_at >= REPORT_ENDS_INTERVAL:
            self._ends_reported_at = now
            outcomes = self._finished()
        index = self.running()
        elapsed = now - self._progress.began
        self._output.read_pipe()
        if self._stream is not None:
            outcomes += self._yielded(self._stream, now)
        if self._closing is not None:
            if not self._closed and now - self._closing >= LIMIT_DELAY:
                self._closed = True
                # keep the first call: it is waiting for the function to be loaded
                outcomes += self._return_rest(
                    max(self._progress.started, self._progress.limit),
                    "returned: it waited behind a long call",
                )
        elif (index is not None and elapsed >= RETURN_AFTER_CALL) or now - self.began >= RETURN_AFTER_BUNDLE:
            self.close(now)
        if (
            index is not None
            and elapsed >= REPORT_RUNNING_AFTER
            and not self._ended[index]
            and self.running() == index
        ):
            outcomes += self._running(index, now, elapsed)
        return outcomes

    def _running(self, index: int, now: float, elapsed: float) -> list[Outcome]:
        """Report a running call, and from time to time its output."""
        new = self._reported != index
        if not new:
            size = self._output.total
            if size == self._reported_bytes:
                return []
            pause = max(REPORT_OUTPUT_INTERVAL, size / OUTPUT_RATE, elapsed * OUTPUT_SHARE)
            if now - self._output_reported_at < min(pause, REPORT_OUTPUT_LATEST):
                return []
        self._reported, self._output_reported_at, self._reported_bytes = index, now, self._output.total
        running = self._outcome(index, Status.RUNNING, started=self._epoch + now - elapsed, wall=elapsed)
        return [running._replace(log=self._output.so_far())]

    def close(self, now: float, keep: int = 1) -> None:
        """Start no calls but the first ``keep``; ``new_outcomes`` returns the others once that is certain."""
        limit = max(self._progress.started, keep)
        if self._closing is None or limit < self._progress.limit:
            self._closing = now
            self._closed = False
            self._progress.limit = limit

    @property
    def limit_pending(self) -> bool:
        """True while ``new_outcomes`` should be called again soon."""
        return self._closing is not None and not self._closed

    def skip(self, task_ids: set[str]) -> None:
        """Skip these calls if they have not started; stop the running one."""
        for index, call in enumerate(self.calls):
            if call.task_id in task_ids and not self._ended[index]:
                self._progress.skip[index] = 1
        running = self.running()
        if running is None and self._progress.loading and all(self._progress.skip[: len(self.calls)]):
            running = 0
        if running is not None and self.calls[running].task_id in task_ids and not self._ended[running]:
            self.stop_reason = StopReason(running, Status.SKIPPED, None, "cancelled while running")

    def add_item(self, index: Any, item: bytes) -> None:
        """Add an item that a call has yielded; ignored unless the call exists and has not ended."""
        if isinstance(index, int) and 0 <= index < len(self.calls) and not self._ended[index]:
            self._stream_of(index).add(item)

    def _stream_of(self, index: int) -> Stream:
        if self._stream is None or self._stream.call != index:
            self._stream = Stream(index)
        return self._stream

    @property
    def backlogged(self) -> bool:
        """True while a call yields faster than items can be reported, so that its runner must wait."""
        return self._stream is not None and self._stream.full

    def _yielded(self, stream: Stream, now: float) -> list[Outcome]:
        """Report items of the running call."""
        began = self._progress.began
        items = stream.next_items(now, now - began)
        if items is None or self._ended[stream.call]:
            return []
        return [self._items_outcome(stream.call, items, self._epoch + began, max(0.0, now - began))]

    def _items_outcome(self, index: int, items: Items, started: float, wall: float) -> Outcome:
        return self._outcome(index, Status.RUNNING, started, wall)._replace(items=items)

    def _with_items(self, index: int, outcome: Outcome) -> list[Outcome]:
        """Return the end of a call together with its unreported items."""
        if self._stream is None or self._stream.call != index:
            return [outcome]
        *pieces, last = self._stream.remaining(ended=outcome.status != Status.LOST)
        self._stream = None
        before = [self._items_outcome(index, items, outcome.started, outcome.wall) for items in pieces]
        return [*before, outcome._replace(items=last)]

    def add_outcome(self, record: dict[str, Any], details: bytes, payload: bytes) -> list[Outcome]:
        """Add an outcome sent in a frame; return [] if it is not valid."""
        try:
            index, status = int(record["index"]), int(record["status"])
            if record.get("streamed") and 0 <= index < len(self.calls):
                self._stream_of(index)
            return self._record(
                index, status, float(record["started"]), float(record["wall"]), details, payload
            )
        except (KeyError, TypeError, ValueError):
            return []

    def finish(self, ran: int) -> list[Outcome]:
        """The runner has ended the bundle after starting the first ``ran`` calls: return the others."""
        outcomes = self._finished() + self._return_rest(max(0, ran), None)
        for index in range(len(self.calls)):
            if not self._ended[index]:
                outcomes += self._end_all(
                    [index], Status.LOST, None, "the runner ended the bundle without an outcome for this call"
                )
        return outcomes

    def runner_died(self, how: str, *, code: str | None) -> list[Outcome]:
        """Return the remaining outcomes of a dead runner; ``code``: the ``Interruption`` that stopped it."""
        outcomes = self._finished()
        count = len(self.calls)
        loading = self._progress.loading
        started = min(self._progress.started, count)
        self._final_output = self.running() or 0, self._output.final_output()
        if self.stop_reason is not None:
            call, reason = self.stop_reason.call, self.stop_reason[1:]
            if loading and self.stop_reason.status != Status.SKIPPED:
                # whatever prevented loading the function would do so for each call
                outcomes += self._end_all(range(count), *reason)
            elif loading or call == self.running():
                outcomes += self._end_all([call], *reason)
        elif loading and code is None:
            outcomes += self._end_all(range(count), Status.LOST, None, f"while loading the function, {how}")
        return outcomes + self._end_all(range(started), Status.LOST, code, how) + self._return_rest(0, None)

    def abandon(self, message: str) -> list[Outcome]:
        """Return ends that were read, and LOST for all other calls; nothing more is read from the runner."""
        ends, self._ends = self._ends, []
        for index in range(len(self.calls)):
            if not self._ended[index]:
                self._ended[index] = 1
                ends.append(self._outcome(index, Status.LOST, message=message))
        return ends

    def _finished(self) -> list[Outcome]:
        """Return unreported ends."""
        self._read_ends()
        ends, self._ends = self._ends, []
        return ends

    def _read_ends(self) -> None:
        for position, record in self._progress.read(self._position):
            self._position = position
            self._ends += self._record(*record)

    def _record(
        self, index: int, status: int, started: float, wall: float, details: bytes, payload: bytes
    ) -> list[Outcome]:
        if not 0 <= index < len(self.calls) or self._ended[index]:
            return []
        self._ended[index] = 1
        log = self._output.take(index) if status & WROTE else None
        status &= ~WROTE
        if not (0 <= started < 1e11 and 0 <= wall < 1e11):
            started = wall = 0.0
        task_id, attempt, _, _ = self.calls[index]
        if status == SUCCEEDED and not details:
            how = Status.SUCCEEDED
            ended = Outcome(task_id, attempt, how, started, wall, None, None, None, payload, log, self._place)
            return [ended] if self._stream is None else self._with_items(index, ended)
        found = read_usage_record(details)
        if found["local"]:
            self._place = self._place._replace(local=found["local"])
        name = (
            Status.SUCCEEDED
            if status == SUCCEEDED
            else Status.SKIPPED if status == SKIPPED else Status.FAILED
        )
        code, message = found["code"] if name == Status.FAILED else None, found["message"]
        ended = Outcome(task_id, attempt, name, started, wall, code, message, found["usage"], payload)
        return self._with_items(index, ended._replace(log=log, place=self._place))

    def _return_rest(self, first: int, message: str | None) -> list[Outcome]:
        outcomes = []
        for index in range(first, len(self.calls)):
            if not self._ended[index]:
                status = Status.SKIPPED if self._progress.skip[index] else Status.RETURNED
                outcomes.append(self._end(index, status, None, message))
        return outcomes

    def _end_all(
        self, indices: Iterable[int], status: str, code: str | None, message: str | None
    ) -> list[Outcome]:
        ends = [(i, self._end(i, status, code, message)) for i in indices if not self._ended[i]]
        return [outcome for index, end in ends for outcome in self._with_items(index, end)]

    def _end(self, index: int, status: str, code: str | None, message: str | None) -> Outcome:
        self._ended[index] = 1
        started, wall = 0.0, 0.0
        if status not in (Status.RETURNED, Status.SKIPPED):
            wall = max(0.0, time.monotonic() - self._progress.began)
            started = self._epoch + self._progress.began
        outcome = self._outcome(index, status, started, wall, code, message)
        # a call that was cancelled while it ran may have output, too
        return outcome._replace(log=self._final_output[1]) if index == self._final_output[0] else outcome

    def _outcome(
        self,
        index: int,
        status: str,
        started: float = 0.0,
        wall: float = 0.0,
        code: str | None = None,
        message: str | None = None,
    ) -> Outcome:
        task_id, attempt, _, _ = self.calls[index]
        return Outcome(task_id, attempt, status, started, wall, code, message, place=self._place)
