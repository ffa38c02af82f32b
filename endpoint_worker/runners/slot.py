"""One runner process, seen from the supervisor: started, fed, listened to, limited and killed.

All methods are called by the supervisor's thread and none of them blocks.
"""

from __future__ import annotations

import logging
import socket
import time
from array import array
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

from umbel.protocol.messages import Outcome, Status
from umbel.protocol.records import Place

from ..ipc import frames
from ..ipc import shared_memory as journals
from .execution import Run, Verdict
from .job import Job
from .process import Child, RunnerOptions

log = logging.getLogger(__name__)

#: A runner keeps this many functions loaded.
MAX_FUNCTIONS = 64
_CHUNK = 256 * 1024


class Slot:
    """One place where a call can run, or several as one. States: starting, idle, busy, dead."""

    def __init__(self, number: int, options: RunnerOptions, borrowed: Sequence[int] = ()):
        self.number = number
        #: other slots, whose own runners do nothing as long as this one is there
        self.borrowed = borrowed
        self.state = "starting"
        self.run: Run | None = None
        self.retiring = False
        #: another kind of runner takes its place
        self.given_up = False
        #: the runner has said hello once
        self.greeted = False
        #: it has taken too long to say so
        self.late = False
        #: the socket will say nothing more
        self.eof = False
        #: what the last bundle left behind that only a new process cures
        self.left = ""
        self.born = time.monotonic()
        self.idle_since = 0.0
        self.function: str | None = None
        self.options = self._options = options
        #: of each call of the bundle that runs
        self._limits = options.limits
        self._functions: OrderedDict[str, None] = OrderedDict()
        self._calls = 0
        self._out = memoryview(b"")
        self._reader = frames.Reader()
        self._kill_at: float | None = None
        self.child = Child(options, (number, *borrowed))
        self._journal = self.child.journal

    def begin(self, job: Job, now: float) -> None:
        """Hand the runner a bundle; only when idle."""
        bundle = job.bundle
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
        header = {
            "calls": len(bundle.calls),
            "sha256": digest,
            "function": len(function),
            "forget": forget,
            "memory": None if self.child.limit_memory(limits.memory) else limits.memory,
            "limited": limits.memory is not None,
            # the endpoint's own limit holds for the whole process
            "files": None if bundle.options.open_files is None else limits.open_files,
        }
        self.child.ear.begin(limits.output or 0)
        place = Place(socket.gethostname(), self.child.pid, self.number)
        self.run = Run(job, self._journal, self.child.ear, place, now)
        self.state = "busy"
        self.function = digest
        self._calls += len(bundle.calls)
        self._out = memoryview(frames.pack(frames.RUN, header, table.tobytes(), function, bundle.body))
        self.write()

    @property
    def sock(self) -> socket.socket:
        """What to listen to; another one once a runner in a container has called."""
        return self.child.sock

    @property
    def key(self) -> Hashable:
        """What this slot's runner is for."""
        return self._options.key

    @property
    def unfit(self) -> bool:
        """Once it has ended: its runner could not start in an environment that a function asked for."""
        return self._options.equipped and not self.greeted and (self.late or not self.child.cut_off)

    @property
    def stuffed(self) -> bool:
        """True while what the runner says shall wait in the socket: it yields faster than can be told."""
        return self.run is not None and self.run.stuffed

    @property
    def wants_to_write(self) -> bool:
        """True while the runner has not read all that it was sent."""
        return bool(self._out)

    def write(self) -> None:
        """Send what the socket takes now."""
        try:
            while self._out:
                self._out = self._out[self.sock.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            # the runner is gone; its death is noticed by ``ended``
            self._out = memoryview(b"")

    def read(self, *, dead: bool = False) -> tuple[list[Outcome], bool]:
        """Take what the runner says: (outcomes, whether the bundle has ended); all of it when it is dead."""
        outcomes: list[Outcome] = []
        finished = False
        try:
            while True:
                data = self.child.receive(_CHUNK)
                if not data:
                    self._hang_up()
                    break
                for frame in self._reader.feed(data):
                    finished = self._frame(frame, outcomes) or finished
                if not dead and (len(data) < _CHUNK or self.stuffed):
                    break
        except BlockingIOError:
            pass
        except (OSError, frames.WireError) as error:
            log.warning("runner %d is stopped: %s", self.child.pid, error)
            self.eof = True
            self.kill()
        return outcomes, finished

    def _hang_up(self) -> None:
        """The runner's end of the socket is closed: it has died, or a call closed it."""
        self.eof = True
        if self.run is None:
            self.kill()
        elif not self._journal.loading:
            # it ends by itself after the call that it is in, whose outcome comes by the journal
            self.run.close(time.monotonic(), keep=0)

    def _frame(self, frame: frames.Frame, outcomes: list[Outcome]) -> bool:
        if frame.kind == frames.HELLO and self.state == "starting":
            self.state = "idle"
            self.greeted = True
            self.child.ear.know(frame.header.get("mark"))
            self.idle_since = time.monotonic()
        elif frame.kind == frames.OUTCOME and self.run is not None:
            size = frame.header.get("note")
            if not isinstance(size, int) or not 0 <= size <= len(frame.body):
                raise frames.WireError("an outcome without a note's size")
            outcomes += self.run.late(frame.header, frame.body[:size], frame.body[size:])
        elif frame.kind == frames.ITEM and self.run is not None:
            self.run.item(frame.header.get("index"), frame.body)
        elif frame.kind == frames.DONE and self.run is not None:
            ran = frame.header.get("ran")
            if not isinstance(ran, int):
                raise frames.WireError("an end without a count")
            outcomes += self.run.done(ran)
            if not frame.header.get("loaded") and self.function is not None:
                self._functions.pop(self.function, None)
            self.left = str(frame.header.get("left", ""))[:200]
            self.state = "idle"
            self.idle_since = time.monotonic()
            return True
        else:
            raise frames.WireError(f"a frame of kind {frame.kind} while {self.state}")
        return False

    def check(self, now: float) -> list[Outcome]:
        """Look at a running bundle: return its news, and stop a call that is over a limit."""
        run = self.run
        if run is None:
            return []
        outcomes = run.news(now)
        if run.verdict is None:
            run.verdict = self._over_memory(run) or self._judge(run, now)
        if run.verdict is not None and not self.child.killed:
            self._execute(run, run.verdict, now)
        return outcomes

    def _over_memory(self, run: Run) -> Verdict | None:
        if self.child.cgroup is None or not self.child.cgroup.exceeded():
            return None
        message = "the call and what it started needed more memory than its limit: raise `memory`"
        return Verdict(run.running() or 0, Status.FAILED, "MEMORY_LIMIT", message)

    def _judge(self, run: Run, now: float) -> Verdict | None:
        timeout, cpu = self._limits.timeout, self._limits.cpu
        if timeout is None and cpu is None:
            return None
        index = run.running()
        if index is None and not self._journal.loading:
            return None
        elapsed = now - self._journal.began
        if timeout is not None and elapsed > timeout:
            what = "the call" if index is not None else "loading the function"
            message = f"{what} ran longer than its time limit of {timeout:g} s: raise `timeout` or do less"
            return Verdict(index or 0, Status.FAILED, "TIMEOUT", message)
        if cpu is not None and index is not None and elapsed > 0.5:
            used = self.child.cpu_seconds() - self._journal.cpu
            if used > cpu:
                message = f"the call used more than its limit of {cpu:g} s of processor time: raise `cpu`"
                return Verdict(index, Status.FAILED, "TIMEOUT", message)
        return None

    def _execute(self, run: Run, verdict: Verdict, now: float) -> None:
        """Kill the runner for a call, but only while it still is in that call."""
        if self._kill_at is None:
            # no other call may begin and be hit in its place
            run.close(now, keep=verdict.call + 1)
            self._kill_at = now + journals.SETTLE
        elif now >= self._kill_at:
            self._kill_at = None
            index = run.running()
            if index == verdict.call or (index is None and self._journal.loading):
                self.kill()
            else:
                run.verdict = None

    @property
    def restless(self) -> bool:
        """True while ``check`` should be called again in a moment."""
        run = self.run
        return run is not None and (run.settling or self._kill_at is not None or self.child.ear.busy)

    def worn(self) -> bool:
        """True when the runner has served long enough or grown too large."""
        options = self._options
        if options.recycle_calls and self._calls >= options.recycle_calls:
            return True
        return bool(options.recycle_memory) and self.child.resident() > options.recycle_memory

    def kill(self) -> None:
        """Kill the runner and everything that it started."""
        self.child.kill()

    def ended(self) -> str | None:
        """How the runner ended, as a sentence, or None while it lives. Buries it."""
        how = self.child.ended(self.greeted)
        if how is not None:
            self.state = "dead"
            if self.run is not None and self.run.verdict is None:
                self.run.verdict = self._over_memory(self.run)
        return how

    def facts(self) -> dict[str, Any]:
        """What people may want to know of this slot."""
        return {"slot": self.number, "pid": self.child.pid, "state": self.state}
