"""A worker node of the simulation: what the service sees of one, without processes."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis

from tests.simulation.site import Place
from umbel.protocol import names
from umbel.protocol.envelope import Verifier
from umbel.protocol.messages import Bundle, Call, Heartbeat, Interruption, Outcome, Report, Status

if TYPE_CHECKING:
    from tests.simulation.world import World

#: How a call ends: status, code, weight.
_ENDS = [
    (Status.SUCCEEDED, None, 70),
    (Status.FAILED, "TASK_ERROR", 14),
    (Status.FAILED, "TIMEOUT", 6),
    (Status.LOST, None, 10),
]


@dataclass
class _Held:
    """A bundle on a node: calls that wait, and calls that run."""

    bundle: Bundle
    waiting: list[Call]
    running: list[Call] = field(default_factory=list)


class SimNode:
    """A node with two slots. ``alive``: its process exists; ``suspended``: it does nothing for now."""

    slots = 2

    def __init__(self, world: World, place: Place, name: str):
        self.world, self.place, self.name = world, place, name
        self.alive = self.suspended = False
        self.instance, self.incarnation, self.order = "", 0, 0
        self.held: dict[str, _Held] = {}
        # outcomes in memory; sealed reports on disk with their bundles; both in order
        self.outcomes: dict[str, list[Outcome]] = defaultdict(list)
        self.spool: list[tuple[bytes, tuple[str, ...]]] = []
        self._verifier = Verifier(world.site.fed.signer.public_key)

    @property
    def works(self) -> bool:
        """Whether it does anything."""
        return self.alive and not self.suspended

    def start(self) -> None:
        """Start; what an earlier instance left in its spool is sent first."""
        self.alive, self.suspended = True, False
        self.instance, self.incarnation, self.order = names.new_id(), self.incarnation + 1, 0
        self.beat()

    def die(self) -> None:
        """End without a word. What is on disk stays; the outcomes in memory may have reached it or not."""
        if self.world.chance.random() < 0.5:
            self._seal()
        self.alive = self.suspended = False
        self.held.clear()
        self.outcomes.clear()

    def leave(self) -> None:
        """Shut down in order: return what has not started, stop what runs, and say goodbye."""
        for held in self.held.values():
            for call in held.waiting:
                self._tell(held.bundle, call, Status.RETURNED)
            for call in held.running:
                self.world.interrupted[call.task_id] += 1
                self._tell(held.bundle, call, Status.LOST, Interruption.STOPPED)
        self.held.clear()
        self._seal(goodbye=True)
        self.flush()
        self.alive = self.suspended = False

    def take(self) -> None:
        """Take a bundle out of the queue; now and then the message is lost on the way."""
        if len(self.held) >= 3:
            return
        try:
            message = self.world.site.store.rpop(names.queue_key(self.place.id))
        except redis.ConnectionError:
            return
        if message is None or (self.world.faulty and self.world.chance.random() < 0.02):
            return
        (head, body), _, _ = json.loads(json.loads(message)["body"])
        bundle, header = Bundle.open_head(
            self._verifier, base64.b64decode(head), endpoint=self.place.id, now=self.world.clock()
        )
        bundle = bundle.with_body(header, base64.b64decode(body))
        if bundle.id not in self._listed():
            self.held[bundle.id] = _Held(bundle, list(bundle.calls))
            self.world.note(f"{self.name} has bundle {bundle.id[:8]} of {len(bundle.calls)} calls")

    def work(self) -> None:
        """Start calls while slots are free, and end some of those that run."""
        busy = sum(len(held.running) for held in self.held.values())
        for held in list(self.held.values()):
            while held.waiting and busy < self.slots:
                call = held.waiting.pop(0)
                held.running.append(call)
                busy += 1
                self.world.started(self, call)
                if self.world.chance.random() < 0.2:
                    self._tell(held.bundle, call, Status.RUNNING)
            for call in list(held.running):
                if not self.world.faulty or self.world.chance.random() < 0.7:
                    held.running.remove(call)
                    self._end(held.bundle, call)
            if not held.waiting and not held.running:
                del self.held[held.bundle.id]

    def cancel(self, task_ids: Sequence[str]) -> None:
        """Skip or stop these calls."""
        for held in list(self.held.values()):
            for calls in (held.waiting, held.running):
                for call in [call for call in calls if call.task_id in task_ids]:
                    calls.remove(call)
                    self._tell(held.bundle, call, Status.SKIPPED)
            if not held.waiting and not held.running:
                del self.held[held.bundle.id]

    def beat(self) -> None:
        """Send the spool, then a heartbeat, which is dropped if the broker is unreachable."""
        if self.flush():
            listed = self._listed()
            busy = sum(len(held.running) for held in self.held.values())
            facts = {"time": self.world.clock()}
            self._push(self._sealed(heartbeat=Heartbeat(self.slots, busy, listed, facts)))

    def flush(self) -> bool:
        """Send all reports in order, each until its push is confirmed; return whether all were sent."""
        self._seal()
        while self.spool:
            if not self._push(self.spool[0][0]):
                return False
            self.spool.pop(0)
        return True

    def _listed(self) -> list[str]:
        unsent = [bundle_id for _, bundles in self.spool for bundle_id in bundles]
        return list(dict.fromkeys([*self.held, *self.outcomes, *unsent]))

    def _end(self, bundle: Bundle, call: Call) -> None:
        kinds = _ENDS if self.world.faulty else _ENDS[:1]
        status, code, _ = self.world.chance.choices(kinds, [weight for _, _, weight in kinds])[0]
        self._tell(bundle, call, status, code)

    def _tell(self, bundle: Bundle, call: Call, status: str, code: str | None = None) -> None:
        """Note an outcome to report."""
        payload = b""
        if status == Status.SUCCEEDED:
            payload = b"r:%d:" % call.attempt + bundle.body[call.offset : call.offset + call.size]
        started = self.world.clock() if status != Status.RETURNED else 0.0
        self.world.ends(call, status, code, payload)
        self.outcomes[bundle.id].append(
            Outcome(call.task_id, call.attempt, status, started, 0.001, code, None, None, payload)
        )

    def _seal(self, goodbye: bool = False) -> None:
        if self.outcomes:
            sealed = self._sealed(outcomes=dict(self.outcomes))
            self.spool.append((sealed, tuple(self.outcomes)))
            self.outcomes.clear()
        if goodbye:
            self.spool.append((self._sealed(goodbye=True), ()))

    def _sealed(self, **what: Any) -> bytes:
        self.order += 1
        which: Any = {"incarnation": self.incarnation, "order": self.order}
        report = Report(self.place.id, self.name, self.instance, **which, **what)
        return report.seal(self.place.signer, self.world.clock(), names.new_id())

    def _push(self, sealed: bytes) -> bool:
        if b'"outcomes"' in sealed or self.world.chance.random() < 0.1:
            self.world.past_reports.append((self.place, sealed))
        try:
            self.world.site.push_report(self.place, sealed)
        except redis.ConnectionError:
            return False
        return True
