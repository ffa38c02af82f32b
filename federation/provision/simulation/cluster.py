"""A simulated cluster with one endpoint, to run a policy on a trace of demand.

The decisions are the real ones; the scheduler, the workers and the clock are simulated.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ..planning import failures
from ..planning.decide import decide
from ..planning.model import Action, Block, BlockState, Decision, Demand, PlannerState, Verb, View, Work
from ..planning.policy import Policy

#: Seconds after which a submission whose answer was lost is looked up by its name.
RESOLVE_AFTER = 45.0


class Arrival(NamedTuple):
    """``calls`` calls of a function arrive at ``time`` (seconds); each runs for ``seconds``."""

    time: float
    calls: int
    seconds: float
    function: str = "f"


@dataclass(frozen=True)
class SimulatedSite:
    """A simulated cluster. Times in seconds; submissions are numbered from 0."""

    #: From submission to start, and from start to the worker's first heartbeat.
    queue_wait: float = 60.0
    start_up: float = 10.0
    #: Most jobs that run at once.
    max_running: int = 1000
    #: Time between two decisions.
    interval: float = 30.0
    #: Periods (start, end) in which the scheduler does not answer.
    outages: tuple[tuple[float, float], ...] = ()
    #: Submissions whose answer is lost: the job exists (even numbers) or does not (odd numbers).
    lost_answers: frozenset[int] = frozenset()
    #: Submissions that are rejected, and submissions whose job fails at its start.
    refused: frozenset[int] = frozenset()
    failing: frozenset[int] = frozenset()


@dataclass
class SimulatedJob:
    """A block in the simulated cluster. ``exists``: the scheduler has it."""

    block: Block
    number: int
    exists: bool = True
    running: dict[int, tuple[float, Arrival]] = field(default_factory=dict)
    ended: float | None = None


class Sample(NamedTuple):
    """State at one moment, for plots."""

    time: float
    waiting: int
    pending: int
    running: int
    busy: int
    slots: int


@dataclass
class Totals:
    """Results of a run. Times in seconds."""

    finished: int = 0
    submissions: int = 0
    cancellations: int = 0
    work: float = 0.0
    last_end: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    decisions: list[tuple[float, View, Decision]] = field(default_factory=list)


class Simulation:
    """Runs ``trace`` under ``policy`` on ``site``."""

    def __init__(self, trace: Sequence[Arrival], policy: Policy, site: SimulatedSite):
        self.policy, self.site = policy, site
        self.now = 0.0
        self.jobs: list[SimulatedJob] = []
        self.planner_state = PlannerState()
        self.totals = Totals()
        self._queue: deque[Arrival] = deque()
        self._known: dict[str, float] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._left = sum(arrival.calls for arrival in trace)
        for arrival in trace:
            self._at(arrival.time, lambda a=arrival: self._arrive(a))  # type: ignore[misc]
        self._at(0.0, self._tick)

    def run(self, until: float) -> Totals:
        """Run until all calls and blocks have ended, or until the given time."""
        while self._events:
            when, _, event = heapq.heappop(self._events)
            if when > until:
                break
            self.now = when
            event()
        return self.totals

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def _arrive(self, arrival: Arrival) -> None:
        self._queue.extend([arrival] * arrival.calls)
        self._assign_calls()

    def _tick(self) -> None:
        self._poll_scheduler()
        view = self.view()
        decision = decide(view, self.policy, self.now)
        self.planner_state = decision.planner_state
        self.totals.decisions.append((self.now, view, decision))
        for action in decision.actions:
            if action.verb is Verb.SUBMIT and self._in_doubt():
                break  # as in ``actions``: no further submission while an outcome is unknown
            self._act(action)
        self._sample()
        idle_floor = self.policy.min_blocks
        if self._left or sum(job.block.active for job in self.jobs) > idle_floor:
            self._at(self.now + self.site.interval, self._tick)

    def _poll_scheduler(self) -> None:
        """Poll the scheduler: resolve submissions whose answer was lost."""
        if self._in_outage():
            return
        for job in self.jobs:
            if job.block.state is BlockState.SUBMITTING and self.now - job.block.submitted >= RESOLVE_AFTER:
                state = BlockState.PENDING if job.exists else BlockState.LOST
                job.block = replace(job.block, state=state)
                if job.exists and job.block.started is not None:
                    job.block = replace(job.block, state=BlockState.RUNNING)

    def _in_doubt(self) -> bool:
        return any(job.block.state is BlockState.SUBMITTING for job in self.jobs)

    def _in_outage(self) -> bool:
        return any(start <= self.now < end for start, end in self.site.outages)

    def view(self) -> View:
        """Return the view of the provisioner at this time."""
        counts: Counter[str] = Counter(arrival.function for arrival in self._queue)
        seconds: dict[str, float] = dict(self._known)
        for began, arrival in (run for job in self.jobs for run in job.running.values()):
            counts[arrival.function] += 1
            taken = 2.0 * (self.now - began)  # as in federation.provision.planning.demand
            seconds[arrival.function] = max(seconds.get(arrival.function, 0.0), taken)
        work = tuple(Work(count, seconds.get(function)) for function, count in sorted(counts.items()))
        ended = [job for job in self.jobs if job.ended is not None]
        day = sum(self._hours(job, max(0.0, self.now - 86400.0)) for job in ended)
        total = sum(self._hours(job, 0.0) for job in ended)
        blocks = tuple(job.block for job in self.jobs if job.block.active)
        return View(blocks, Demand(work), self.planner_state, not self._in_outage(), day, total)

    def _hours(self, job: SimulatedJob, since: float) -> float:
        if job.block.started is None or job.ended is None:
            return 0.0
        return job.block.nodes * max(0.0, job.ended - max(since, job.block.started)) / 3600.0

    def _act(self, action: Action) -> None:
        if action.verb is Verb.SUBMIT:
            self._submit()
            return
        job = next(job for job in self.jobs if job.block.name == action.block)
        if action.verb is Verb.DRAIN:
            job.block = replace(job.block, state=BlockState.DRAINING, drained=self.now)
            self._at(self.now + 1.0, lambda: self._end_when_empty(job))
        else:
            self.totals.cancellations += 1
            job.block = replace(job.block, cancelled=self.now)
            self._at(self.now + 1.0, lambda: self._end(job, BlockState.CANCELLED))

    def _submit(self) -> None:
        number = self.totals.submissions
        self.totals.submissions += 1
        if number in self.site.refused:
            self.planner_state = failures.refused(
                self.planner_state, self.policy, self.now, "rejected by the simulation"
            )
            return
        self.planner_state = failures.accepted(self.planner_state)
        lost = number in self.site.lost_answers
        block = Block(
            f"b{number}",
            BlockState.SUBMITTING if lost else BlockState.PENDING,
            self.policy.nodes_per_block,
            self.policy.slots_per_block,
            self.policy.walltime,
            self.now,
        )
        job = SimulatedJob(block, number, exists=not lost or number % 2 == 0)
        self.jobs.append(job)
        if job.exists:
            self._at(self.now + self.site.queue_wait, lambda: self._start(job))

    def _start(self, job: SimulatedJob) -> None:
        if not job.block.active:
            return
        if sum(j.block.started is not None and j.ended is None for j in self.jobs) >= self.site.max_running:
            self._at(self.now + self.site.interval, lambda: self._start(job))
            return
        state = job.block.state
        state = BlockState.RUNNING if state is BlockState.PENDING else state
        job.block = replace(job.block, state=state, started=self.now)
        if job.number in self.site.failing:
            self._at(self.now + 1.0, lambda: self._end(job, BlockState.FAILED))
            return
        self._at(self.now + self.site.start_up, lambda: self._join(job))
        self._at(self.now + job.block.walltime, lambda: self._end(job, BlockState.TIMEOUT))

    def _join(self, job: SimulatedJob) -> None:
        if job.block.active:
            job.block = replace(job.block, joined=self.now, workers=job.block.nodes, idle_since=self.now)
            self.planner_state = failures.joined(self.planner_state)
            self._assign_calls()

    def _assign_calls(self) -> None:
        for job in self.jobs:
            block = job.block
            takes = (
                block.active
                and block.joined is not None
                and block.drained is None
                and block.cancelled is None
            )
            if not takes or block.left(self.now) <= self.policy.drain_margin:
                continue
            while self._queue and len(job.running) < block.slots:
                self._run(job, self._queue.popleft())

    def _run(self, job: SimulatedJob, arrival: Arrival) -> None:
        key = next(self._order)
        job.running[key] = (self.now, arrival)
        job.block = replace(job.block, busy=len(job.running), idle_since=None)
        self._at(self.now + arrival.seconds, lambda: self._finish(job, key))

    def _finish(self, job: SimulatedJob, key: int) -> None:
        run = job.running.pop(key, None)
        if run is None:
            return  # its job ended before it
        _, arrival = run
        self._left -= 1
        self.totals.finished += 1
        self.totals.work += arrival.seconds
        self.totals.last_end = self.now
        self._known[arrival.function] = arrival.seconds
        idle = None if job.running else self.now
        job.block = replace(job.block, busy=len(job.running), idle_since=idle)
        self._assign_calls()
        self._end_when_empty(job)

    def _end_when_empty(self, job: SimulatedJob) -> None:
        if job.block.drained is not None and not job.running:
            self._end(job, BlockState.COMPLETED)

    def _end(self, job: SimulatedJob, state: BlockState) -> None:
        if job.ended is not None:
            return
        job.ended = self.now
        ran = 0.0 if job.block.started is None else self.now - job.block.started
        joined = job.block.joined is not None
        self.planner_state = failures.ended(
            self.planner_state, self.policy, self.now, state, block=job.block.name, joined=joined, ran=ran
        )
        # running calls are requeued, as in the ledger
        self._queue.extendleft(arrival for _, arrival in job.running.values())
        job.running.clear()
        job.block = replace(job.block, state=state, busy=0, idle_since=None)
        self._assign_calls()

    def _sample(self) -> None:
        active = [job.block for job in self.jobs if job.block.active]
        up = [block for block in active if block.joined is not None]
        self.totals.samples.append(
            Sample(
                self.now,
                len(self._queue),
                sum(block.state.waiting for block in active),
                sum(not block.state.waiting for block in active),
                sum(block.busy for block in up),
                sum(block.slots for block in up),
            )
        )
