"""The thread that owns all runners.

It hands bundles to idle runners, reads their outcomes, gives back what should not wait behind a long
call, stops calls that are over a limit or cancelled, and replaces runners that died. It talks to nothing
but its runners: no broker, no disk; so it goes on whatever happens to Celery's main thread.

Other threads ask for things through methods that put a command into a queue and wake the thread.
"""

from __future__ import annotations

import logging
import selectors
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from functools import partial

from umbel.protocol.messages import Interruption, Outcome

from ..ipc.shared_memory import SETTLE
from ..runners.job import Job, Sink, ended_by, refused, unstarted
from ..runners.process import RunnerOptions
from ..runners.slot import Slot
from .commands import Inbox
from .placement import overdue, place, widened, withdraw
from .queue import Waiting
from .runner_pool import Crew

log = logging.getLogger(__name__)

#: Seconds between two looks at running bundles: of young ones, and of old ones.
TICK, SLOW_TICK = 0.02, 0.1
#: An idle runner with leftovers of its last call is replaced after this long (seconds).
LINGER = 1.0
STOPPING = "its worker is stopping"


class Supervisor(threading.Thread):
    """Runs bundles in ``slots`` runner processes.

    ``sink`` takes outcomes; ``tell`` takes callbacks of jobs (they may block, so another thread runs them).
    ``sweeps``: this process adopts orphans; those of calls are killed, not what ``strays.own_program`` runs.
    """

    def __init__(
        self,
        options: RunnerOptions,
        slots: int,
        sink: Sink,
        tell: Callable[[list[Callable[[], None]]], None],
        *,
        sweeps: bool = False,
    ):
        super().__init__(name="umbel-supervisor", daemon=True)
        self._sink = sink
        self._tell = tell
        self._selector = selectors.DefaultSelector()
        self._inbox = Inbox()
        self._selector.register(self._inbox.sock, selectors.EVENT_READ)
        self._options = options
        self._crew = Crew(options, slots, self._selector, sweeps=sweeps)
        self._news: list[Callable[[], None]] = []
        self._ended: list[tuple[Job, list[Outcome]]] = []
        self._waiting = Waiting()
        self._held: dict[str, Job] = {}
        self._next_look = 0.0
        self._drain_until: float | None = None
        self._why = Interruption.STOPPED
        self._drained = threading.Event()
        self._over = False

    def submit(self, job: Job) -> None:
        """Take a bundle: run it, or give it back."""
        self._held[job.bundle.id] = job
        self._inbox.put(partial(self._take, job))

    def cancel(self, task_ids: Iterable[str]) -> None:
        """Skip these calls, now or when they come, and stop those that run."""
        self._inbox.put(partial(self._cancel, set(task_ids)))

    def cancel_bundle(self, bundle_id: str) -> None:
        """Skip or stop all calls of a bundle."""
        job = self._held.get(bundle_id)
        if job is not None:
            self.cancel(call.task_id for call in job.bundle.calls)

    def resize(self, difference: int) -> None:
        """Add slots, or remove some: idle ones at once, others when their bundle has ended."""
        self._inbox.put(partial(self._crew.resize, difference))

    def renew(self) -> None:
        """Replace all runners, each when it is idle."""
        self._inbox.put(self._crew.renew)

    def drain(self, seconds: float, why: str = Interruption.STOPPED) -> threading.Event:
        """Take nothing more, give back what has not started, let running calls run ``seconds`` more.

        The event is set when nothing is held. ``why``: code of calls stopped then. Less time may follow.
        """
        self._inbox.put(partial(self._drain, time.monotonic() + seconds, why))
        return self._drained

    def stop(self, timeout: float = 5.0) -> None:
        """Kill all runners and end the thread."""
        self._inbox.put(self._end)
        self.join(timeout)

    @property
    def slots(self) -> int:
        """How many calls run at once."""
        return self._crew.wanted

    @property
    def busy(self) -> int:
        """How many slots run a bundle."""
        return self._crew.busy

    @property
    def waiting(self) -> int:
        """How many bundles wait for a slot."""
        return len(self._waiting)

    @property
    def held(self) -> list[str]:
        """Ids of the bundles that were taken and have calls without an outcome."""
        return list(self._held)

    @property
    def keys(self) -> list[Hashable]:
        """What the runners are for, and what those that wait want."""
        return [*self._waiting.keys(), *(slot.key for slot in tuple(self._crew.slots))]

    @property
    def problem(self) -> str:
        """Why runners do not start, or ""."""
        return self._crew.problem

    def run(self) -> None:
        """Serve until ``stop``."""
        while not self._over:
            try:
                self._turn()
            except Exception:
                # a fault here must not end all work of the node: say it, and go on with the rest
                log.exception("the supervisor stumbled; it goes on")
                time.sleep(0.1)
        self._crew.dismiss()
        self._selector.close()
        self._inbox.close()

    def _turn(self) -> None:
        for key, mask in self._selector.select(max(0.0, self._next_look - time.monotonic())):
            if key.data is not None:
                self._serve(key.data, mask)
        for command in self._inbox.commands():
            command()
        now = time.monotonic()
        if now >= self._next_look:
            # a runner that is there at last must not find its bundle given back
            self._assign(now)
            self._look(now)
            self._next_look = time.monotonic() + self._interval(now)
        self._assign(now)
        # only now that the slots have their next bundles: who is told of ends wants Python's lock, too
        while self._ended:
            job, outcomes = self._ended.pop(0)
            self._emit(job, outcomes)
            self._let_go(job)
        if self._news:
            # all of a turn at once: waking a thread costs more than what it has to do
            news, self._news = self._news, []
            self._tell(news)
        if self._drain_until is not None and not self._held:
            self._drained.set()

    def _interval(self, now: float) -> float:
        if self._crew.restless:
            return SETTLE
        began = max((run.began for run in self._crew.runs), default=None)
        if began is not None:
            return TICK if now - began < 1.0 else SLOW_TICK
        return SLOW_TICK if self._waiting or self._crew.starting else 1.0

    def _serve(self, slot: Slot, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            slot.write()
        if mask & selectors.EVENT_READ:
            outcomes, finished = slot.read()
            if finished:
                self._finish(slot, outcomes)
            elif slot.run is not None:
                self._emit(slot.run.job, outcomes)
        self._crew.listen(slot)
        if slot.eof:
            self._next_look = 0.0

    def _emit(self, job: Job, outcomes: list[Outcome]) -> None:
        if outcomes:
            self._sink(job.bundle.id, outcomes)

    def _finish(self, slot: Slot, outcomes: list[Outcome]) -> None:
        run, slot.run = slot.run, None
        if run is not None:
            self._ended.append((run.job, outcomes))
        self._crew.check_wear(slot)

    def _let_go(self, job: Job) -> None:
        # outcomes are with the sink before the bundle is no longer held: a heartbeat in between names both
        self._held.pop(job.bundle.id, None)
        self._news.append(job.on_done)

    def _look(self, now: float) -> None:
        blame = self._drain_until is None or now < self._drain_until
        for slot in self._crew.slots:
            if slot.run is not None:
                self._emit(slot.run.job, slot.check(now))
                self._crew.listen(slot)
            how = slot.ended()
            if how is not None:
                self._bury(slot, *ended_by(how, None if blame else self._why))
            elif not blame and slot.run is not None:
                slot.kill()
            elif slot.state == "idle" and slot.left and now - slot.idle_since > LINGER:
                slot.kill()
        self._crew.replace(now, hire=self._drain_until is None)
        self._give_back_waiting(now)
        self._waiting.forget(now)

    def _bury(self, slot: Slot, how: str, code: str | None) -> None:
        outcomes, finished = slot.read(dead=True)
        run, slot.run = slot.run, None
        if run is not None:
            self._emit(run.job, outcomes if finished else outcomes + run.died(how, code=code))
            self._let_go(run.job)
            if run.verdict is None:
                log.warning("slot %d, %s: %s", slot.number, run.job.bundle.function.name, how)
        self._crew.bury(slot, how)
        if slot.unfit and not slot.retiring:
            for job in withdraw(self._waiting, slot.key):
                self._emit(job, refused(job.bundle, "ENVIRONMENT_ERROR", how, job.cancelled))
                self._held.pop(job.bundle.id, None)
                self._news += [partial(job.on_accept, "", 0), job.on_done, partial(job.on_broken, how)]

    def _take(self, job: Job) -> None:
        if self._drain_until is None:
            job.options = widened(job.options or self._options, job.cores)
            self._waiting.add(job, time.monotonic())
            self._next_look = min(self._next_look, job.arrived + SLOW_TICK)
        else:
            self._return(job, STOPPING)
            self._discard(job)

    def _return(self, job: Job, message: str) -> None:
        self._emit(job, unstarted(job.bundle, message, job.cancelled))
        self._held.pop(job.bundle.id, None)
        self._waiting.give_back(job)

    def _discard(self, job: Job) -> None:
        self._news += [partial(job.on_accept, "", 0), job.on_done]

    def _assign(self, now: float) -> None:
        for slot, job in place(self._crew, self._waiting, self._options, now):
            if slot is None:
                self._discard(job)
                continue
            slot.begin(job, now)
            self._crew.listen(slot)
            self._news.append(partial(job.on_accept, job.bundle.id, slot.child.pid))
            self._next_look = min(self._next_look, now + TICK)

    def _give_back_waiting(self, now: float) -> None:
        """Bundles must not wait behind long calls: other nodes may be free.

        Their place in Celery's window is kept until a slot is free, or Celery would fetch the next ones.
        """
        for job, why in list(overdue(self._crew, self._waiting, now)):
            self._return(job, why)

    def _cancel(self, task_ids: set[str]) -> None:
        self._waiting.cancel(task_ids, time.monotonic())
        for run in self._crew.runs:
            run.skip(task_ids)
        self._next_look = 0.0

    def _drain(self, until: float, why: str) -> None:
        if self._drain_until is None or until < self._drain_until:
            self._drain_until, self._why = until, why
        while self._waiting:
            job = self._waiting.pop()
            if not job.hollow:
                self._return(job, STOPPING)
            self._discard(job)
        now = time.monotonic()
        for run in self._crew.runs:
            run.close(now, keep=0)
        self._next_look = 0.0

    def _end(self) -> None:
        self._over = True
