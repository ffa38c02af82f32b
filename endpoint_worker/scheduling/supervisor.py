"""The thread that owns all runners.

It assigns bundles to idle runners, reads their outcomes, returns calls that would wait behind a long one,
stops calls that exceed a limit or are cancelled, and replaces runners that died. It uses neither broker nor
disk, so a blocked Celery main thread does not stop it. Other threads send it commands through a queue.
"""

from __future__ import annotations

import logging
import selectors
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from functools import partial

from umbel.protocol.messages import Interruption, Outcome

from ..ipc.shared_memory import LIMIT_DELAY
from ..runners.job import Job, Sink, describe_end, refused, unstarted
from ..runners.process import RunnerOptions
from ..runners.slot import Slot
from .commands import CommandQueue
from .placement import overdue, place, widened, withdraw
from .queue import JobQueue
from .runner_pool import RunnerPool

log = logging.getLogger(__name__)

#: Seconds between two checks of running bundles: of young ones, and of old ones.
TICK, SLOW_TICK = 0.02, 0.1
#: An idle runner with leftovers of its last call is replaced after this long (seconds).
LEFTOVER_SECONDS = 1.0
STOPPING = "the worker is shutting down"


class Supervisor(threading.Thread):
    """Runs bundles in ``slots`` runner processes.

    ``sink`` receives outcomes; ``notify`` runs callbacks of jobs in another thread, since they may block.
    ``adopts_orphans``: this process adopts orphans, so it kills what calls leave behind.
    """

    def __init__(
        self,
        options: RunnerOptions,
        slots: int,
        sink: Sink,
        notify: Callable[[list[Callable[[], None]]], None],
        *,
        adopts_orphans: bool = False,
    ):
        super().__init__(name="umbel-supervisor", daemon=True)
        self._sink = sink
        self._notify = notify
        self._selector = selectors.DefaultSelector()
        self._commands = CommandQueue()
        self._selector.register(self._commands.sock, selectors.EVENT_READ)
        self._options = options
        self._pool = RunnerPool(options, slots, self._selector, adopts_orphans=adopts_orphans)
        self._callbacks: list[Callable[[], None]] = []
        self._ended: list[tuple[Job, list[Outcome]]] = []
        self._queue = JobQueue()
        self._held: dict[str, Job] = {}
        self._next_check = 0.0
        self._drain_until: float | None = None
        self._stop_code = Interruption.STOPPED
        self._drained = threading.Event()
        self._stopped = False

    def submit(self, job: Job) -> None:
        """Accept a bundle: run it, or return it."""
        self._held[job.bundle.id] = job
        self._commands.put(partial(self._enqueue, job))

    def cancel(self, task_ids: Iterable[str]) -> None:
        """Skip these calls, now or when they arrive, and stop those that run."""
        self._commands.put(partial(self._cancel, set(task_ids)))

    def cancel_bundle(self, bundle_id: str) -> None:
        """Skip or stop all calls of a bundle."""
        job = self._held.get(bundle_id)
        if job is not None:
            self.cancel(call.task_id for call in job.bundle.calls)

    def resize(self, difference: int) -> None:
        """Add slots, or remove some: idle ones at once, others at the end of their bundle."""
        self._commands.put(partial(self._pool.resize, difference))

    def replace_all(self) -> None:
        """Replace all runners, each when it is idle."""
        self._commands.put(self._pool.replace_all)

    def drain(self, seconds: float, why: str = Interruption.STOPPED) -> threading.Event:
        """Accept no more bundles, return what has not started, let running calls continue for ``seconds``.

        The event is set when no bundle is left. ``why``: code of calls stopped then. May be shortened later.
        """
        self._commands.put(partial(self._drain, time.monotonic() + seconds, why))
        return self._drained

    def stop(self, timeout: float = 5.0) -> None:
        """Kill all runners and end the thread."""
        self._commands.put(self._end)
        self.join(timeout)

    @property
    def slots(self) -> int:
        """Number of calls that run at once."""
        return self._pool.size

    @property
    def busy(self) -> int:
        """Number of slots that run a bundle."""
        return self._pool.busy

    @property
    def waiting(self) -> int:
        """Number of bundles that wait for a slot."""
        return len(self._queue)

    @property
    def held(self) -> list[str]:
        """Ids of accepted bundles that have calls without an outcome."""
        return list(self._held)

    @property
    def keys(self) -> list[Hashable]:
        """Keys of the runners' kinds, and of those that waiting bundles need."""
        return [*self._queue.keys(), *(slot.key for slot in tuple(self._pool.slots))]

    @property
    def problem(self) -> str:
        """Why runners do not start, or ""."""
        return self._pool.problem

    def run(self) -> None:
        """Run until ``stop``."""
        while not self._stopped:
            try:
                self._iterate()
            except Exception:
                # an error here must not end all work of the node: log it and continue
                log.exception("unexpected error in the supervisor loop; continuing")
                time.sleep(0.1)
        self._pool.shut_down()
        self._selector.close()
        self._commands.close()

    def _iterate(self) -> None:
        for key, mask in self._selector.select(max(0.0, self._next_check - time.monotonic())):
            if key.data is not None:
                self._handle_io(key.data, mask)
        for command in self._commands.take_all():
            command()
        now = time.monotonic()
        if now >= self._next_check:
            # a runner that has just become ready must find its bundle still waiting
            self._assign(now)
            self._check(now)
            self._next_check = time.monotonic() + self._interval(now)
        self._assign(now)
        # after the slots have their next bundles, because handling outcomes needs the GIL
        while self._ended:
            job, outcomes = self._ended.pop(0)
            self._emit(job, outcomes)
            self._release(job)
        if self._callbacks:
            # all of one iteration at once: waking a thread costs more than the callbacks
            callbacks, self._callbacks = self._callbacks, []
            self._notify(callbacks)
        if self._drain_until is not None and not self._held:
            self._drained.set()

    def _interval(self, now: float) -> float:
        if self._pool.needs_check:
            return LIMIT_DELAY
        began = max((execution.began for execution in self._pool.executions), default=None)
        if began is not None:
            return TICK if now - began < 1.0 else SLOW_TICK
        return SLOW_TICK if self._queue or self._pool.starting else 1.0

    def _handle_io(self, slot: Slot, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            slot.write()
        if mask & selectors.EVENT_READ:
            outcomes, finished = slot.read()
            if finished:
                self._finish(slot, outcomes)
            elif slot.execution is not None:
                self._emit(slot.execution.job, outcomes)
        self._pool.register(slot)
        if slot.eof:
            self._next_check = 0.0

    def _emit(self, job: Job, outcomes: list[Outcome]) -> None:
        if outcomes:
            self._sink(job.bundle.id, outcomes)

    def _finish(self, slot: Slot, outcomes: list[Outcome]) -> None:
        execution, slot.execution = slot.execution, None
        if execution is not None:
            self._ended.append((execution.job, outcomes))
        self._pool.recycle_if_due(slot)

    def _release(self, job: Job) -> None:
        # the sink gets the outcomes before the bundle is released, so that a heartbeat in between counts it
        self._held.pop(job.bundle.id, None)
        self._callbacks.append(job.on_done)

    def _check(self, now: float) -> None:
        in_time = self._drain_until is None or now < self._drain_until
        for slot in self._pool.slots:
            if slot.execution is not None:
                self._emit(slot.execution.job, slot.check(now))
                self._pool.register(slot)
            how = slot.ended()
            if how is not None:
                self._remove(slot, *describe_end(how, None if in_time else self._stop_code))
            elif not in_time and slot.execution is not None:
                slot.kill()
            elif slot.state == "idle" and slot.leftovers and now - slot.idle_since > LEFTOVER_SECONDS:
                slot.kill()
        self._pool.replace(now, start=self._drain_until is None)
        self._return_overdue(now)
        self._queue.forget_cancelled(now)

    def _remove(self, slot: Slot, how: str, code: str | None) -> None:
        outcomes, finished = slot.read(dead=True)
        execution, slot.execution = slot.execution, None
        if execution is not None:
            self._emit(
                execution.job, outcomes if finished else outcomes + execution.runner_died(how, code=code)
            )
            self._release(execution.job)
            if execution.stop_reason is None:
                log.warning("slot %d, function %s: %s", slot.number, execution.job.bundle.function.name, how)
        self._pool.remove(slot, how)
        if slot.environment_broken and not slot.retiring:
            for job in withdraw(self._queue, slot.key):
                self._emit(job, refused(job.bundle, "ENVIRONMENT_ERROR", how, job.cancelled))
                self._held.pop(job.bundle.id, None)
                self._callbacks += [partial(job.on_accept, "", 0), job.on_done, partial(job.on_broken, how)]

    def _enqueue(self, job: Job) -> None:
        if self._drain_until is None:
            job.options = widened(job.options or self._options, job.cores)
            self._queue.add(job, time.monotonic())
            self._next_check = min(self._next_check, job.arrived + SLOW_TICK)
        else:
            self._return(job, STOPPING)
            self._discard(job)

    def _return(self, job: Job, message: str) -> None:
        self._emit(job, unstarted(job.bundle, message, job.cancelled))
        self._held.pop(job.bundle.id, None)
        self._queue.mark_returned(job)

    def _discard(self, job: Job) -> None:
        self._callbacks += [partial(job.on_accept, "", 0), job.on_done]

    def _assign(self, now: float) -> None:
        for slot, job in place(self._pool, self._queue, self._options, now):
            if slot is None:
                self._discard(job)
                continue
            slot.begin(job, now)
            self._pool.register(slot)
            self._callbacks.append(partial(job.on_accept, job.bundle.id, slot.process.pid))
            self._next_check = min(self._next_check, now + TICK)

    def _return_overdue(self, now: float) -> None:
        """Return bundles that wait behind long calls; they keep their places in Celery's window."""
        for job, why in list(overdue(self._pool, self._queue, now)):
            self._return(job, why)

    def _cancel(self, task_ids: set[str]) -> None:
        self._queue.cancel(task_ids, time.monotonic())
        for execution in self._pool.executions:
            execution.skip(task_ids)
        self._next_check = 0.0

    def _drain(self, until: float, why: str) -> None:
        if self._drain_until is None or until < self._drain_until:
            self._drain_until, self._stop_code = until, why
        while self._queue:
            job = self._queue.pop()
            if not job.returned:
                self._return(job, STOPPING)
            self._discard(job)
        now = time.monotonic()
        for execution in self._pool.executions:
            execution.close(now, keep=0)
        self._next_check = 0.0

    def _end(self) -> None:
        self._stopped = True
