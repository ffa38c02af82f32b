"""The thread that owns all runners.

It assigns bundles to idle runners, reads their outcomes, returns calls that would wait behind a long one,
stops calls that exceed a limit or are cancelled, and replaces runners that died. It uses neither broker nor
disk, so a blocked Celery main thread does not stop it. Other threads send it commands through a queue.
"""

# One concept: one thread with its loop and its commands; what it decides is in the other modules here.

from __future__ import annotations

import logging
import selectors
import threading
import time
from collections.abc import Hashable, Iterable
from functools import partial

from umbel.protocol.messages import Interruption, Outcome
from umbel.system.threads import GuardedThread

from ..ipc.shared_memory import LIMIT_DELAY
from ..runners.job import Job, Sink, describe_end
from ..runners.process import RunnerOptions
from ..runners.slot import Slot
from .accepted import AcceptedBundles, Notify
from .commands import Command, CommandQueue
from .placement import overdue, place, widened, withdraw
from .queue import JobQueue
from .runner_pool import RunnerPool

log = logging.getLogger(__name__)

#: Seconds between two checks of running bundles: of young ones, and of old ones.
TICK, SLOW_TICK = 0.02, 0.1
STOPPING = "the worker is shutting down"


class Supervisor(GuardedThread):
    """Runs bundles in ``slots`` runner processes.

    ``sink`` receives outcomes; ``notify`` runs callbacks of jobs in another thread, since they may block.
    ``adopts_orphans``: this process adopts orphans, so it kills what calls leave behind.

    An unexpected error while a bundle is handled ends that bundle and its runner, and nothing else.
    """

    def __init__(
        self,
        options: RunnerOptions,
        slots: int,
        sink: Sink,
        notify: Notify,
        *,
        adopts_orphans: bool = False,
    ):
        super().__init__(self._loop, name="umbel-supervisor")
        self._accepted = AcceptedBundles(sink, notify)
        self._selector = selectors.DefaultSelector()
        self._commands = CommandQueue()
        self._selector.register(self._commands.sock, selectors.EVENT_READ)
        self._options = options
        self._pool = RunnerPool(options, slots, self._selector, adopts_orphans=adopts_orphans)
        self._queue = JobQueue()
        self._next_check = 0.0
        self._drain_until: float | None = None
        self._stop_code = Interruption.STOPPED
        self._drained = threading.Event()
        self._stopped = False

    def submit(self, job: Job) -> None:
        """Accept a bundle: run it, or return it."""
        self._accepted.add(job)
        self._commands.put(partial(self._enqueue, job))

    def cancel(self, task_ids: Iterable[str]) -> None:
        """Skip these calls, now or when they arrive, and stop those that run."""
        self._commands.put(partial(self._cancel, set(task_ids)))

    def cancel_bundle(self, bundle_id: str) -> None:
        """Skip or stop all calls of a bundle."""
        job = self._accepted.get(bundle_id)
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
        return self._accepted.ids

    @property
    def keys(self) -> list[Hashable]:
        """Keys of the runners' kinds, and of those that waiting bundles need."""
        return [*self._queue.keys(), *(slot.key for slot in tuple(self._pool.slots))]

    @property
    def problem(self) -> str:
        """Why runners do not start, or ""."""
        return self._pool.problem

    def _loop(self) -> None:
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
                self._for_slot(key.data, partial(self._handle_io, key.data, mask))
        for command in self._commands.take_all():
            try:
                command()
            except Exception:
                # the commands behind it must not wait
                log.exception("unexpected error in a command of the supervisor; continuing")
        now = time.monotonic()
        if now >= self._next_check:
            # a runner that has just become ready must find its bundle still waiting
            self._assign(now)
            self._check(now)
            self._next_check = time.monotonic() + self._interval(now)
        self._assign(now)
        # after the slots have their next bundles, because handling outcomes needs the GIL
        self._accepted.flush()
        if self._drain_until is not None and not self._accepted:
            self._drained.set()

    def _for_slot(self, slot: Slot, action: Command) -> None:
        """Do something for one slot; an unexpected error ends its bundle and its runner only."""
        try:
            action()
        except Exception as error:
            if slot.execution is not None:
                self._accepted.abandon(slot.execution.job, error, slot)
            else:
                log.exception("slot %d: unexpected error; its runner is replaced", slot.number)
                slot.kill()

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
                self._accepted.emit(slot.execution.job, outcomes)
        self._pool.register(slot)
        if slot.eof:
            self._next_check = 0.0

    def _finish(self, slot: Slot, outcomes: list[Outcome]) -> None:
        execution, slot.execution = slot.execution, None
        if execution is not None:
            self._accepted.end_later(execution.job, outcomes)
        self._pool.recycle_if_due(slot)

    def _check(self, now: float) -> None:
        for slot in list(self._pool.slots):
            self._for_slot(slot, partial(self._check_slot, slot, now))
        self._pool.replace(now, start=self._drain_until is None)
        if self._pool.unstartable is not None:
            key, how = self._pool.unstartable
            self._pool.unstartable = None
            self._refuse_all(key, how)
        self._return_overdue(now)
        self._queue.forget_cancelled(now)

    def _check_slot(self, slot: Slot, now: float) -> None:
        in_time = self._drain_until is None or now < self._drain_until
        if slot.execution is not None:
            self._accepted.emit(slot.execution.job, slot.check(now))
            self._pool.register(slot)
        how = slot.ended()
        if how is not None:
            self._remove(slot, *describe_end(how, None if in_time else self._stop_code))
        elif now > slot.end_by or (not in_time and slot.execution is not None):
            slot.kill()

    def _remove(self, slot: Slot, how: str, code: str | None) -> None:
        # first, so that a later error does not leave the slot occupied by a dead runner
        execution = slot.execution
        try:
            if execution is not None:
                outcomes, finished = slot.read(dead=True)
                outcomes += [] if finished else execution.runner_died(how, code=code)
                slot.execution = None
                self._accepted.end(execution.job, outcomes)
                if execution.stop_reason is None:
                    name = execution.job.bundle.function.name
                    log.warning("slot %d, function %s: %s", slot.number, name, how)
        except Exception as error:
            # whatever the dead runner left unreadable concerns its own bundle only
            if execution is not None:
                self._accepted.abandon(execution.job, error, slot)
        self._pool.remove(slot, how)
        if slot.environment_broken and not slot.retiring:
            self._refuse_all(slot.options.fresh, how)

    def _refuse_all(self, fresh: Hashable, how: str) -> None:
        """Fail the waiting bundles of a kind of runner that cannot start."""
        for job in withdraw(self._queue, fresh):
            self._accepted.refuse(job, "ENVIRONMENT_ERROR", how)

    def _enqueue(self, job: Job) -> None:
        if self._drain_until is None:
            try:
                job.options = widened(job.options or self._options, job.cores)
                self._queue.add(job, time.monotonic())
            except Exception as error:
                self._accepted.abandon(job, error, accepted=False)
                return
            self._next_check = min(self._next_check, job.arrived + SLOW_TICK)
        else:
            self._accepted.give_back(job, STOPPING)
            self._accepted.discard(job)

    def _return(self, job: Job, message: str) -> None:
        self._accepted.give_back(job, message)
        self._queue.mark_returned(job)

    def _assign(self, now: float) -> None:
        for job, slot in place(self._pool, self._queue, self._options, now):
            if isinstance(slot, Exception):
                self._accepted.abandon(job, slot, accepted=False)
            elif slot is None:
                self._accepted.discard(job)
            else:
                self._begin(slot, job, now)
        if self._pool.vacated:
            self._next_check = 0.0

    def _begin(self, slot: Slot, job: Job, now: float) -> None:
        try:
            slot.begin(job, now)
            self._pool.register(slot)
        except Exception as error:
            self._accepted.abandon(job, error, slot, accepted=False)
            return
        self._accepted.started(job, slot.process.pid)
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
            self._accepted.discard(job)
        now = time.monotonic()
        for execution in self._pool.executions:
            execution.close(now, keep=0)
        self._pool.parking.clear()
        self._next_check = 0.0

    def _end(self) -> None:
        self._stopped = True
