"""One runner process from the supervisor's point of view: start, assign, read, limit and kill.

The supervisor's thread calls all methods; none of them blocks.
"""

# One concept: a runner with its state, from its start to its end.

from __future__ import annotations

import logging
import math
import socket
import time
from array import array
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

from umbel.protocol.messages import Outcome, Status
from umbel.protocol.records import Place

from ..ipc import frames, shared_memory
from .execution import Execution, StopReason
from .job import Job
from .process import RunnerOptions, RunnerProcess

log = logging.getLogger(__name__)

#: A runner keeps at most this many functions loaded.
MAX_FUNCTIONS = 64
#: Time for functions registered with ``atexit`` when a runner ends (seconds).
EXIT_SECONDS = 2.0
_CHUNK = 256 * 1024


class Slot:
    """A slot, or several used as one, with its runner. States: starting, idle, busy, dead."""

    def __init__(self, number: int, options: RunnerOptions, borrowed: Sequence[int] = ()):
        self.number = number
        #: other slots, whose own runners stay idle while this one exists
        self.borrowed = borrowed
        self.state = "starting"
        self.execution: Execution | None = None
        self.retiring = False
        #: since when it has had no slot (monotonic clock), or None; it stays for later bundles of its kind
        self.parked: float | None = None
        #: the runner has sent HELLO
        self.was_ready = False
        #: it did not become ready in time
        self.timed_out = False
        #: the socket is closed
        self.eof = False
        #: leftovers of the last bundle that only a new process removes
        self.leftovers = ""
        #: changes by the last bundle that every later call would meet
        self.spoiled = ""
        self._has_handlers = False
        #: until when a runner that ends may run functions registered with ``atexit``
        self.end_by = math.inf
        #: the call that it was running when it ended, if its directory is kept
        self.last_call: str | None = None
        self.born = time.monotonic()
        self.idle_since = 0.0
        self.function: str | None = None
        self.options = self._options = options
        #: limits for each call of the running bundle
        self._limits = options.limits
        #: each call of the running bundle has a process of its own
        self._isolated = False
        self._functions: OrderedDict[str, None] = OrderedDict()
        self._calls = 0
        self._out: list[memoryview] = []
        self._reader = frames.Reader()
        self._kill_at: float | None = None
        self.process = RunnerProcess(options, (number, *borrowed))
        self._progress = self.process.progress

    def begin(self, job: Job, now: float) -> None:
        """Send a bundle to the runner; only when idle. An unused runner becomes one of the bundle's kind."""
        bundle = job.bundle
        if job.options is not None and job.options.key != self.key:
            self.options = self._options = job.options
        digest = bundle.function.sha256
        known = digest in self._functions
        self._functions[digest] = None
        self._functions.move_to_end(digest)
        forget = []
        while len(self._functions) > MAX_FUNCTIONS:
            forget.append(self._functions.popitem(last=False)[0])
        function = b"" if known else job.function
        limits = self._limits = bundle.options.tightened(self._options.limits)
        table = array("I", [number for call in bundle.calls for number in (call.offset, call.size)])
        header: dict[str, Any] = {
            "calls": len(bundle.calls),
            "sha256": digest,
            "function": len(function),
            "forget": forget,
            "memory": None if self.process.limit_memory(limits.memory) else limits.memory,
            "limited": limits.memory is not None,
            # the endpoint's own limit applies to the whole process
            "files": None if bundle.options.open_files is None else limits.open_files,
        }
        self.process.output.begin(limits.output or 0)
        if "process" in (bundle.options.isolation, self._options.isolation):
            header["isolated"] = True
        if self._options.keep_files != "never":
            header["keep"] = self._options.keep_files
            header["names"] = [call.task_id for call in bundle.calls]
        if job.access is not None:
            header["access"] = {**job.access, "tasks": [call.task_id for call in bundle.calls]}
        place = Place(socket.gethostname(), self.process.pid, self.number)
        self._isolated = "isolated" in header
        self.execution = Execution(job, self._progress, self.process.output, place, now)
        self.state = "busy"
        self.function = digest
        self._calls += len(bundle.calls)
        self._out = frames.views(frames.RUN, header, table.tobytes(), function, bundle.body)
        self.write()

    @property
    def sock(self) -> socket.socket:
        """The socket to watch; it changes once a runner in a container has connected."""
        return self.process.sock

    @property
    def key(self) -> Hashable:
        """Key of the runner's kind."""
        return self._options.key

    @property
    def environment_broken(self) -> bool:
        """After its end: the runner could not start in an environment that a function requires."""
        return (
            self._options.for_environment
            and not self.was_ready
            and (self.timed_out or not self.process.ended_by_signal)
        )

    @property
    def backlogged(self) -> bool:
        """True while the socket must not be read: the call yields faster than items can be reported."""
        return self.execution is not None and self.execution.backlogged

    @property
    def has_unsent(self) -> bool:
        """True while the runner has not read everything it was sent."""
        return bool(self._out)

    def write(self) -> None:
        """Send as much as the socket accepts now."""
        try:
            while self._out:
                first = self._out[0]
                left = first[self.sock.send(first) :]
                self._out[:1] = [left] if left else []
        except BlockingIOError:
            pass
        except OSError:
            # the runner is gone; ``ended`` detects its death
            self._out = []

    def read(self, *, dead: bool = False) -> tuple[list[Outcome], bool]:
        """Read from the runner, all of it if ``dead``; return (outcomes, whether the bundle has ended)."""
        outcomes: list[Outcome] = []
        finished = False
        try:
            while True:
                data = self.process.receive(_CHUNK)
                if not data:
                    self._socket_closed()
                    break
                for frame in self._reader.feed(data):
                    finished = self._frame(frame, outcomes) or finished
                if not dead and (len(data) < _CHUNK or self.backlogged):
                    break
        except BlockingIOError:
            pass
        except (OSError, frames.FrameError) as error:
            log.warning(
                "runner %d: killed because of invalid data or a socket error: %s", self.process.pid, error
            )
            self.eof = True
            self.kill()
        return outcomes, finished

    def _socket_closed(self) -> None:
        """The runner has died, or a call has closed its end of the socket."""
        self.eof = True
        if self.execution is None:
            self.kill()
        elif not self._progress.loading:
            # it ends by itself after the running call, whose outcome comes through shared memory
            self.execution.close(time.monotonic(), keep=0)

    def _frame(self, frame: frames.Frame, outcomes: list[Outcome]) -> bool:
        if frame.kind == frames.HELLO and self.state == "starting":
            self.state = "idle"
            self.was_ready = True
            self.process.output.set_secret(frame.header.get("mark"))
            self.idle_since = time.monotonic()
        elif frame.kind == frames.OUTCOME and self.execution is not None:
            size = frame.header.get("note")
            if not isinstance(size, int) or not 0 <= size <= len(frame.body):
                raise frames.FrameError("an outcome frame without a valid size of its details")
            outcomes += self.execution.add_outcome(frame.header, frame.body[:size], frame.body[size:])
        elif frame.kind == frames.ITEM and self.execution is not None:
            self.execution.add_item(frame.header.get("index"), frame.body)
        elif frame.kind in (frames.RAN, frames.DONE) and self.execution is not None:
            ran = frame.header.get("ran")
            if not isinstance(ran, int):
                raise frames.FrameError("an end-of-bundle frame without a count")
            outcomes += self.execution.finish(ran)
            if frame.kind == frames.RAN:
                return False
            if not frame.header.get("loaded") and self.function is not None:
                self._functions.pop(self.function, None)
            self.leftovers = str(frame.header.get("left", ""))[:200]
            self._has_handlers = frame.header.get("handlers") is True
            self.spoiled = str(frame.header.get("spoiled", ""))[:200]
            self.state = "idle"
            self.idle_since = time.monotonic()
            return True
        else:
            raise frames.FrameError(f"unexpected frame of kind {frame.kind} in state {self.state}")
        return False

    def check(self, now: float) -> list[Outcome]:
        """Return new outcomes of the running bundle, and stop a call that exceeds a limit."""
        execution = self.execution
        if execution is None:
            return []
        outcomes = execution.new_outcomes(now)
        if execution.stop_reason is None:
            execution.stop_reason = self._over_memory(execution) or self._over_time(execution, now)
        if execution.stop_reason is not None and not self.process.killed:
            self._stop_call(execution, execution.stop_reason, now)
        return outcomes

    def _over_memory(self, execution: Execution) -> StopReason | None:
        if self.process.cgroup is None or not self.process.cgroup.exceeded():
            return None
        message = "the call and its processes exceeded the memory limit: raise `memory`"
        return StopReason(execution.running() or 0, Status.FAILED, "MEMORY_LIMIT", message)

    def _over_time(self, execution: Execution, now: float) -> StopReason | None:
        timeout, cpu = self._limits.timeout, self._limits.cpu
        if timeout is None and cpu is None:
            return None
        index = execution.running()
        if index is None and not self._progress.loading:
            return None
        elapsed = now - self._progress.began
        if timeout is not None and elapsed > timeout:
            what = "the call" if index is not None else "loading the function"
            message = f"{what} exceeded the time limit of {timeout:g} s: raise `timeout` or do less"
            return StopReason(index or 0, Status.FAILED, "TIMEOUT", message)
        if cpu is not None and index is not None and elapsed > 0.5:
            used = self.process.cpu_seconds(children=self._isolated) - self._progress.cpu
            if used > cpu:
                message = f"the call exceeded the limit of {cpu:g} s of processor time: raise `cpu`"
                return StopReason(index, Status.FAILED, "TIMEOUT", message)
        return None

    def _stop_call(self, execution: Execution, stop_reason: StopReason, now: float) -> None:
        """Kill the runner because of a call, but only while it is still running that call."""
        if self._kill_at is None:
            # no other call may start and be killed instead
            execution.close(now, keep=stop_reason.call + 1)
            self._kill_at = now + shared_memory.LIMIT_DELAY
        elif now >= self._kill_at:
            self._kill_at = None
            index = execution.running()
            if index == stop_reason.call or (index is None and self._progress.loading):
                self.kill()
            else:
                execution.stop_reason = None

    @property
    def needs_check(self) -> bool:
        """True while ``check`` should be called again soon."""
        execution = self.execution
        return execution is not None and (
            execution.limit_pending or self._kill_at is not None or self.process.output.busy
        )

    def due_for_recycling(self) -> bool:
        """True if the runner is spoiled, has run enough calls or has grown too large."""
        options = self._options
        if self.spoiled:
            log.info("slot %d: a call has changed its runner (%s): replaced", self.number, self.spoiled)
            return True
        if options.recycle_calls and self._calls >= options.recycle_calls:
            return True
        return bool(options.recycle_memory) and self.process.resident() > options.recycle_memory

    def kill(self) -> None:
        """Kill the runner and everything that it started."""
        self.process.kill()

    def end(self) -> None:
        """End an idle runner: kill it, unless calls have registered functions with ``atexit``."""
        if self.process.killed:
            return
        if not self._has_handlers or self.state != "idle" or "child processes" in self.leftovers:
            self.kill()
            return
        self.end_by = time.monotonic() + EXIT_SECONDS
        self.process.finish()

    def ended(self) -> str | None:
        """Return how the runner ended, as a sentence, or None while it is alive."""
        how = self.process.ended(self.was_ready)
        if how is not None:
            self.state = "dead"
            self._note_last_call()
            if self.execution is not None and self.execution.stop_reason is None:
                self.execution.stop_reason = self._over_memory(self.execution)
        return how

    def _note_last_call(self) -> None:
        index = None if self.execution is None else self.execution.running()
        if index is not None and self._options.keep_files != "never" and self.execution is not None:
            self.last_call = self.execution.calls[index].task_id

    def facts(self) -> dict[str, Any]:
        """Return a description of this slot."""
        return {"slot": self.number, "pid": self.process.pid, "state": self.state}
