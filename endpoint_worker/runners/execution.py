"""What became of each call of a bundle that a runner runs.

A ``Run`` turns records of the journal, frames of the socket and the runner's death into outcomes, each
call's exactly once. It never believes the runner further than its own bundle reaches.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from umbel.protocol.messages import Outcome, Status
from umbel.protocol.records import Items, Log, Place

from ..ipc.output import Ear
from ..ipc.shared_memory import SETTLE, SKIPPED, SPOKE, SUCCEEDED, Journal
from ..ipc.stream import Stream
from .job import Job
from .usage_record import read_note

#: A call that runs longer (seconds), or a bundle, makes the calls behind it be given back.
GIVE_BACK_CALL = 0.1
GIVE_BACK_BUNDLE = 0.25
#: A call that runs longer (seconds) is reported as running.
TELL_RUNNING = 0.2
#: Ends of calls are told at least this often (seconds) while the bundle goes on: each report is a
#: transaction at the service, so not for every look.
TELL_ENDS = 0.1
#: What a running call has written is told at most this often (seconds), less often if there is much of it
#: (bytes per second) or if it runs for long (a share of its run time), but at least so often (seconds).
TELL_OUTPUT, OUTPUT_RATE, OUTPUT_SHARE, TELL_OUTPUT_LATEST = 1.0, 32 * 1024, 1 / 60, 10.0


class Verdict(NamedTuple):
    """Why a running call is to be stopped, and what is then said of it."""

    call: int
    status: str
    code: str | None
    message: str


class Run:
    """A bundle in a runner.

    ``now`` is always the monotonic clock. ``ear`` has what calls write, ``place`` says where they run.
    """

    def __init__(self, job: Job, journal: Journal, ear: Ear, place: Place, now: float):
        self.job = job
        self.calls = job.bundle.calls
        self.began = now
        self.verdict: Verdict | None = None
        self._journal = journal
        self._ear = ear
        self._place = place
        # what to add to the monotonic clock for seconds since 1970
        self._epoch = time.time() - now
        self._position = 0
        # ends that were read and are not told yet
        self._ends: list[Outcome] = []
        self._over = bytearray(len(self.calls))
        self._closing: float | None = None
        self._closed = False
        self._told = -1
        self._told_ends = now
        # when what the running call has written was told, and how much of it
        self._told_output, self._told_bytes = now, 0
        # what the running call has yielded
        self._stream: Stream | None = None
        # of a runner that died: the call that it was in, and what that wrote
        self._last_words: tuple[int, Log | None] = -1, None
        journal.reset(len(self.calls), now)
        for index, call in enumerate(self.calls):
            if call.task_id in job.cancelled:
                journal.skip[index] = 1

    def running(self) -> int | None:
        """Index of the call that runs now; None while the function is loaded and between calls."""
        started = self._journal.started
        return started - 1 if self._journal.finished < started <= len(self.calls) else None

    def news(self, now: float) -> list[Outcome]:
        """Outcomes since the last time: finished calls, calls given back, and one that runs for long."""
        outcomes: list[Outcome] = []
        # little by little: at the bundle's end its slot waits for the next one meanwhile
        self._read_ends()
        if now - self._told_ends >= TELL_ENDS:
            self._told_ends = now
            outcomes = self._finished()
        index = self.running()
        elapsed = now - self._journal.began
        self._ear.look()
        if self._stream is not None:
            outcomes += self._yielded(self._stream, now)
        if self._closing is not None:
            if not self._closed and now - self._closing >= SETTLE:
                self._closed = True
                # the first call stays: it is waiting for the function to be loaded
                outcomes += self._rest(max(self._journal.started, self._journal.limit), "given back")
        elif (index is not None and elapsed >= GIVE_BACK_CALL) or now - self.began >= GIVE_BACK_BUNDLE:
            self.close(now)
        if (
            index is not None
            and elapsed >= TELL_RUNNING
            and not self._over[index]
            and self.running() == index
        ):
            outcomes += self._running(index, now, elapsed)
        return outcomes

    def _running(self, index: int, now: float, elapsed: float) -> list[Outcome]:
        """Tell that a call runs, and from time to time what it has written."""
        new = self._told != index
        if not new:
            size = self._ear.total
            if size == self._told_bytes:
                return []
            pause = max(TELL_OUTPUT, size / OUTPUT_RATE, min(elapsed * OUTPUT_SHARE, TELL_OUTPUT_LATEST))
            if now - self._told_output < min(pause, TELL_OUTPUT_LATEST):
                return []
        self._told, self._told_output, self._told_bytes = index, now, self._ear.total
        running = self._outcome(index, Status.RUNNING, started=self._epoch + now - elapsed, wall=elapsed)
        return [running._replace(log=self._ear.so_far())]

    def close(self, now: float, keep: int = 1) -> None:
        """Start no further calls but of the first ``keep``; ``news`` gives them back once it is certain."""
        limit = max(self._journal.started, keep)
        if self._closing is None or limit < self._journal.limit:
            self._closing = now
            self._closed = False
            self._journal.limit = limit

    @property
    def settling(self) -> bool:
        """True while ``news`` should be asked again in a moment."""
        return self._closing is not None and not self._closed

    def skip(self, task_ids: set[str]) -> None:
        """Do not run these calls, if they have not started; the running one gets a verdict."""
        for index, call in enumerate(self.calls):
            if call.task_id in task_ids and not self._over[index]:
                self._journal.skip[index] = 1
        running = self.running()
        if running is None and self._journal.loading and all(self._journal.skip[: len(self.calls)]):
            running = 0
        if running is not None and self.calls[running].task_id in task_ids and not self._over[running]:
            self.verdict = Verdict(running, Status.SKIPPED, None, "cancelled while it ran")

    def item(self, index: Any, item: bytes) -> None:
        """A call has yielded something; ignored unless it is one that has not ended."""
        if isinstance(index, int) and 0 <= index < len(self.calls) and not self._over[index]:
            self._stream_of(index).add(item)

    def _stream_of(self, index: int) -> Stream:
        if self._stream is None or self._stream.call != index:
            self._stream = Stream(index)
        return self._stream

    @property
    def stuffed(self) -> bool:
        """True while a call yields faster than can be told: its runner shall wait."""
        return self._stream is not None and self._stream.full

    def _yielded(self, stream: Stream, now: float) -> list[Outcome]:
        """Tell what the running call has yielded."""
        began = self._journal.began
        items = stream.news(now, now - began)
        if items is None or self._over[stream.call]:
            return []
        return [self._item_news(stream.call, items, self._epoch + began, max(0.0, now - began))]

    def _item_news(self, index: int, items: Items, started: float, wall: float) -> Outcome:
        return self._outcome(index, Status.RUNNING, started, wall)._replace(items=items)

    def _with_items(self, index: int, outcome: Outcome) -> list[Outcome]:
        """An end of a call, with what it has yielded and is not told yet."""
        if self._stream is None or self._stream.call != index:
            return [outcome]
        *pieces, last = self._stream.rest(ended=outcome.status != Status.LOST)
        self._stream = None
        before = [self._item_news(index, items, outcome.started, outcome.wall) for items in pieces]
        return [*before, outcome._replace(items=last)]

    def late(self, record: dict[str, Any], note: bytes, payload: bytes) -> list[Outcome]:
        """The outcome in a frame, which did not fit the journal; [] if it is not one that can be."""
        try:
            index, status = int(record["index"]), int(record["status"])
            if record.get("streamed") and 0 <= index < len(self.calls):
                self._stream_of(index)
            return self._record(index, status, float(record["started"]), float(record["wall"]), note, payload)
        except (KeyError, TypeError, ValueError):
            return []

    def done(self, ran: int) -> list[Outcome]:
        """The runner has ended the bundle, having begun the first ``ran`` calls: the rest goes back."""
        outcomes = self._finished() + self._rest(max(0, ran), None)
        for index in range(len(self.calls)):
            if not self._over[index]:
                outcomes += self._end_all(
                    [index], Status.LOST, None, "its runner did not say what became of it"
                )
        return outcomes

    def died(self, how: str, *, code: str | None) -> list[Outcome]:
        """The runner is dead. ``how``: a sentence; ``code``: of ``Interruption`` if we have stopped it."""
        outcomes = self._finished()
        count = len(self.calls)
        loading = self._journal.loading
        started = min(self._journal.started, count)
        self._last_words = self.running() or 0, self._ear.last_words()
        verdict = self.verdict
        if verdict is not None:
            if loading and verdict.status != Status.SKIPPED:
                # what kept the function from being loaded would keep it for each call
                outcomes += self._end_all(range(count), verdict.status, verdict.code, verdict.message)
            elif loading or verdict.call == self.running():
                outcomes += self._end_all([verdict.call], verdict.status, verdict.code, verdict.message)
        elif loading and code is None:
            outcomes += self._end_all(range(count), Status.LOST, None, f"{how} while it loaded the function")
        return outcomes + self._end_all(range(started), Status.LOST, code, how) + self._rest(0, None)

    def _finished(self) -> list[Outcome]:
        """Ends that are not told yet."""
        self._read_ends()
        ends, self._ends = self._ends, []
        return ends

    def _read_ends(self) -> None:
        for position, record in self._journal.read(self._position):
            self._position = position
            self._ends += self._record(*record)

    def _record(
        self, index: int, status: int, started: float, wall: float, note: bytes, payload: bytes
    ) -> list[Outcome]:
        if not 0 <= index < len(self.calls) or self._over[index]:
            return []
        self._over[index] = 1
        log = self._ear.take(index) if status & SPOKE else None
        status &= ~SPOKE
        if not (0 <= started < 1e11 and 0 <= wall < 1e11):
            started = wall = 0.0
        task_id, attempt, _, _ = self.calls[index]
        if status == SUCCEEDED and not note:
            how = Status.SUCCEEDED
            ended = Outcome(task_id, attempt, how, started, wall, None, None, None, payload, log, self._place)
            return [ended] if self._stream is None else self._with_items(index, ended)
        facts = read_note(note)
        name = (
            Status.SUCCEEDED
            if status == SUCCEEDED
            else Status.SKIPPED if status == SKIPPED else Status.FAILED
        )
        code, message = facts["code"] if name == Status.FAILED else None, facts["message"]
        ended = Outcome(task_id, attempt, name, started, wall, code, message, facts["usage"], payload)
        return self._with_items(index, ended._replace(log=log, place=self._place))

    def _rest(self, first: int, message: str | None) -> list[Outcome]:
        outcomes = []
        for index in range(first, len(self.calls)):
            if not self._over[index]:
                status = Status.SKIPPED if self._journal.skip[index] else Status.RETURNED
                outcomes.append(self._end(index, status, None, message))
        return outcomes

    def _end_all(
        self, indices: Iterable[int], status: str, code: str | None, message: str | None
    ) -> list[Outcome]:
        ends = [(i, self._end(i, status, code, message)) for i in indices if not self._over[i]]
        return [told for index, end in ends for told in self._with_items(index, end)]

    def _end(self, index: int, status: str, code: str | None, message: str | None) -> Outcome:
        self._over[index] = 1
        started, wall = 0.0, 0.0
        if status not in (Status.RETURNED, Status.SKIPPED):
            wall = max(0.0, time.monotonic() - self._journal.began)
            started = self._epoch + self._journal.began
        outcome = self._outcome(index, status, started, wall, code, message)
        # a call that was cancelled while it ran has written something, too
        return outcome._replace(log=self._last_words[1]) if index == self._last_words[0] else outcome

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
