"""One simulated worker node: slots without runners around the outbox of a real node."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from endpoint_worker.broker.clock import BrokerClock
from endpoint_worker.intake.receive import Intake, Unavailable, body_of
from endpoint_worker.reporting.outbox import Outbox
from endpoint_worker.reporting.presence import Load, Origin
from endpoint_worker.runners.execution import REPORT_RUNNING_AFTER
from endpoint_worker.runners.job import unstarted
from umbel.protocol import names
from umbel.protocol.envelope import Signer
from umbel.protocol.errors import ProtocolError
from umbel.protocol.messages import Bundle, Call, Outcome, Status
from umbel.protocol.records import Place
from umbel.serialize import dump_result, load_call

log = logging.getLogger(__name__)

#: Reported run time of a call that takes no time, seconds: that of a no-op in a real runner.
NO_OP_SECONDS = 5e-5


class Executed:
    """The starts of calls. ``calls``: different ones; ``again``: starts of a call that had started before."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self.again = self.bundles = 0

    @property
    def calls(self) -> int:
        """Number of different calls that were started."""
        return len(self._seen)

    def add(self, task_id: str) -> None:
        """Count a start."""
        before = len(self._seen)
        self._seen.add(int(task_id.replace("-", ""), 16))
        self.again += len(self._seen) == before


@dataclass
class Shared:
    """What the nodes of one process have in common.

    ``seconds``: run time of a call; ``later``: runs a function after so many seconds; ``facts``: those of
    each node's description.
    """

    endpoint: str
    signer: Signer
    intake: Intake
    client: redis.Redis
    clock: BrokerClock
    spool: Path
    slots: int
    later: Callable[[float, Callable[[], None]], None]
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    executed: Executed = field(default_factory=Executed)


class SimulatedNode:
    """A node; ``number``: from 0, unique in its endpoint.

    ``touched``: called when the outbox has something to send. The calls of a bundle run one after another
    in one slot; those that wait behind a long one are returned.
    """

    def __init__(self, shared: Shared, number: int, touched: Callable[[SimulatedNode], None]):
        self._shared, self._touched = shared, touched
        self.name = f"n{number:05d}"
        origin = Origin(shared.endpoint, self.name, names.new_id(), time.time_ns() // 1_000_000)
        self._place = Place(self.name, 1 + number, 0)
        self._waiting: deque[Bundle] = deque()
        self._bundles: set[str] = set()
        self._busy = 0
        self.outbox = Outbox(
            shared.signer, origin, shared.spool / self.name, shared.client, self, shared.clock
        )
        self.fetches = self.outbox.fetches

    @property
    def takes(self) -> bool:
        """Whether it may fetch another bundle: for each slot, one runs and one waits."""
        return len(self._bundles) < 2 * self._shared.slots and self.fetches.allowed

    def receive(self, message: bytes) -> None:
        """Check a fetched message, and run its calls or wait for a slot."""
        shared = self._shared
        try:
            opened = shared.intake.open(body_of(message))
        except ProtocolError as error:
            log.error("message dropped: %s", error)
            return
        except Unavailable as error:
            log.warning("bundle %s returned: %s", error.bundle.id, error)
            self._report(error.bundle.id, error.outcomes)
            return
        bundle = opened.bundle
        if bundle.id in self._bundles or self.outbox.holds(bundle.id):
            log.warning("bundle %s received twice; ignoring the second copy", bundle.id)
            return
        if opened.refused:
            self._report(bundle.id, opened.refused)
        if bundle.calls:
            shared.executed.bundles += 1
            self._bundles.add(bundle.id)
            self._waiting.append(bundle)
            self._start()

    def _start(self) -> None:
        """Run waiting bundles in free slots."""
        while self._waiting and self._busy < self._shared.slots:
            bundle = self._waiting.popleft()
            self._busy += 1
            if self._shared.seconds:
                self._next(bundle, iter(bundle.calls))
            else:
                now = time.time()
                for call in bundle.calls:
                    self._shared.executed.add(call.task_id)
                self._end(bundle, [self._outcome(bundle, call, now, NO_OP_SECONDS) for call in bundle.calls])

    def _next(self, bundle: Bundle, calls: Iterator[Call]) -> None:
        """Run the next call of a bundle, which takes some time."""
        call, shared, began = next(calls), self._shared, time.time()
        shared.executed.add(call.task_id)

        def running() -> None:
            outcome = Outcome(call.task_id, call.attempt, Status.RUNNING, began, time.time() - began)
            self._report(bundle.id, [outcome._replace(place=self._place), *self._rest(calls)])

        def ended() -> None:
            outcome = self._outcome(bundle, call, began, time.time() - began)
            following = next(calls, None)
            if following is None:
                self._end(bundle, [outcome])
            else:
                self._report(bundle.id, [outcome])
                self._next(bundle, itertools.chain([following], calls))

        if shared.seconds > REPORT_RUNNING_AFTER:
            shared.later(REPORT_RUNNING_AFTER, running)
        shared.later(shared.seconds, ended)

    def _rest(self, calls: Iterator[Call]) -> list[Outcome]:
        """Return the calls that wait behind a long one."""
        message = "returned: it waited behind a long call"
        return [Outcome(c.task_id, c.attempt, Status.RETURNED, message=message) for c in calls]

    def _outcome(self, bundle: Bundle, call: Call, began: float, wall: float) -> Outcome:
        (value,), _ = load_call(bundle.body[call.offset : call.offset + call.size])
        result = dump_result(value)
        return Outcome(
            call.task_id, call.attempt, Status.SUCCEEDED, began, wall, payload=result, place=self._place
        )

    def _end(self, bundle: Bundle, outcomes: list[Outcome]) -> None:
        """Report the last outcomes of a bundle and free its slot."""
        # first: a bundle with unsent reports counts as held
        self._report(bundle.id, outcomes)
        self._bundles.discard(bundle.id)
        self._busy -= 1
        self._start()

    def _report(self, bundle_id: str, outcomes: list[Outcome]) -> None:
        self.outbox.add(bundle_id, outcomes)
        self._touched(self)

    def held(self) -> list[str]:
        """Ids of bundles with calls whose outcomes are not all in the ledger."""
        return [*self._bundles.union(self.outbox.held)]

    def describe(self) -> tuple[int, dict[str, Any]]:
        """Return the number of slots, and the facts about this node."""
        return self._shared.slots, {**self._shared.facts, "hostname": self.name}

    def load(self) -> Load:
        """Return the load of the node."""
        return Load(self._busy, len(self._waiting))

    def give_back(self, message: bytes) -> None:
        """Report the calls of a message that was fetched and not received as returned."""
        try:
            bundle = self._shared.intake.give_back(message)
        except ProtocolError as error:
            log.error("message dropped: %s", error)
            return
        if bundle.id not in self.held():
            self._report(bundle.id, unstarted(bundle, "the connection to the broker broke"))
