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
from umbel.protocol.messages import Bundle, Call, Interruption, Outcome, Report, Status
from umbel.protocol.node_state import NODE_NEWS, Beat, NodeState

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


@dataclass
class _Spooled:
    """A sealed report on disk; ``position``: in the endpoint's list, None if it must be pushed."""

    sealed: bytes
    bundles: tuple[str, ...]
    position: int | None = None


class SimNode:
    """A node with two slots. ``alive``: its process exists; ``suspended``: it does nothing for now."""

    slots = 2

    def __init__(self, world: World, place: Place, name: str):
        self.world, self.place, self.name = world, place, name
        self.alive = self.suspended = False
        self.incarnation = 0
        # outcomes in memory; sealed reports on disk, in order
        self.outcomes: dict[str, list[Outcome]] = defaultdict(list)
        self.spool: list[_Spooled] = []
        self._begin()
        self._verifier = Verifier(world.site.fed.signer.public_key)

    def _begin(self) -> None:
        """What an instance has in memory. ``fetched``: delivered messages that are still in its list;
        ``arriving``: a message that the broker has moved to the list, and that was not read yet."""
        self.instance, self.version, self.beats = names.new_id(), 0, 0
        self.announced = self.known = False
        self.held: dict[str, _Held] = {}
        self.fetched: list[bytes] = []
        self.arriving: bytes | None = None

    @property
    def works(self) -> bool:
        """Whether it does anything."""
        return self.alive and not self.suspended

    @property
    def store(self) -> Any:
        """The broker."""
        return self.world.site.store

    def start(self) -> None:
        """Start; what an earlier instance left in its spool is sent first."""
        self.alive, self.suspended = True, False
        self.incarnation += 1
        self._begin()
        for each in self.spool:
            each.position = None
        self.beat()

    def die(self) -> None:
        """End without a word. What is on disk stays; the outcomes in memory may have reached it or not."""
        if self.world.chance.random() < 0.5:
            self._seal()
        self.alive = self.suspended = False
        self.outcomes.clear()

    def leave(self) -> None:
        """Shut down in order: return what has not started, stop what runs, say goodbye if all is applied."""
        self._deliver()
        for held in self.held.values():
            for call in held.waiting:
                self._tell(held.bundle, call, Status.RETURNED)
            for call in held.running:
                self.world.interrupted[call.task_id] += 1
                self._tell(held.bundle, call, Status.LOST, Interruption.STOPPED)
        self.held.clear()
        self._seal()
        self.alive = self.suspended = False
        self.flush()
        self.world._collect()
        self._round()
        if not self.spool:
            self._push(_Spooled(self._sealed(goodbye=True), ()))
            self.world.site.broker.node_states.remove(self.place.id, [self.instance])

    def take(self) -> None:
        """Fetch a bundle out of the queue; now and then the answer is late, or never read."""
        if self._deliver() or len(self.held) >= 3 or not self.known:
            return
        queue, fetched = names.queue_key(self.place.id), names.fetched_key(self.place.id, self.instance)
        try:
            self.arriving = self.store.lmove(queue, fetched)
        except redis.ConnectionError:
            return
        if self.arriving is not None and self.world.faulty:
            luck = self.world.chance.random()
            if luck < 0.03:
                self.arriving = None  # the connection broke
            if luck < 0.1:
                return
        self._deliver()

    def _deliver(self) -> bool:
        """Read the message that has arrived; return whether there was one."""
        message, self.arriving = self.arriving, None
        if message is None:
            return False
        self.fetched.append(message)
        bundle = self._open(message)
        if bundle.id not in self._listed():
            self.held[bundle.id] = _Held(bundle, list(bundle.calls))
            self.world.note(f"{self.name} has bundle {bundle.id[:8]} of {len(bundle.calls)} calls")
        return True

    def _open(self, message: bytes) -> Bundle:
        (head, body), _, _ = json.loads(json.loads(message)["body"])
        bundle, header = Bundle.open_head(
            self._verifier, base64.b64decode(head), endpoint=self.place.id, now=self.world.clock()
        )
        return bundle.with_body(header, base64.b64decode(body))

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
        """Write a beat, or announce itself; send the spool; write what it holds."""
        self.beats += 1
        key = names.beats_key(self.place.id)
        try:
            if self.announced and self.store.hexists(key, self.instance):
                self.store.hset(key, self.instance, self._beat())
            else:
                self._announce(key)
            self._round()
        except redis.ConnectionError:
            self.world.note(f"{self.name}: broker unreachable")

    def _beat(self) -> bytes:
        return Beat(self.version, self.beats, sum(len(held.running) for held in self.held.values())).write()

    def _announce(self, key: str) -> None:
        """Write everything at once; push again what is not applied. Fetch nothing before it is known.

        What was fetched before a loss of keys and is delivered after it is not run.
        """
        self.version += 1
        of = self.place.id
        state = NodeState(of, self.name, self.instance, self.incarnation, self.version, self.slots)
        self.known, self.arriving = False, None
        for each in self.spool:
            each.position = None
        pipe = self.store.pipeline()
        if listed := self._listed():
            pipe.sadd(names.held_key(self.place.id, self.instance), *listed)
        sealed = state.seal(self.place.signer, self.world.clock())
        pipe.hset(names.nodes_key(self.place.id), self.instance, sealed)
        pipe.hset(key, self.instance, self._beat())
        pipe.publish(names.news_channel(self.place.id), NODE_NEWS)
        pipe.execute()
        self.announced = True

    def flush(self) -> None:
        """Push all reports that must be pushed, in order."""
        self._seal()
        for each in self.spool:
            if each.position is None and not self._push(each):
                return

    def _round(self) -> None:
        """Push, note what is applied, write what it holds, return what was never delivered."""
        self.flush()
        of = self.place.id
        applied = int(self.store.get(names.applied_key(of)) or 0)
        self.spool = [each for each in self.spool if each.position is None or each.position > applied]
        self.known = self.known or bool(self.store.sismember(names.known_key(of), self.instance))
        held, fetched = names.held_key(of, self.instance), names.fetched_key(of, self.instance)
        pipe = self.store.pipeline()
        listed = [each.encode() for each in self._listed()]
        if listed:
            pipe.sadd(held, *listed)
        for message in self.fetched:
            pipe.lrem(fetched, -1, message)
        pipe.smembers(held)
        over = [each for each in pipe.execute()[-1] if each not in listed]
        self.fetched.clear()
        if over:
            self.store.srem(held, *over)
        for message in self.store.lrange(fetched, 0, -1):
            if message != self.arriving and message not in self.fetched:
                self.fetched.append(message)
                bundle = self._open(message)
                if bundle.id not in self._listed():
                    for call in bundle.calls:
                        self._tell(bundle, call, Status.RETURNED)

    def _listed(self) -> list[str]:
        unapplied = [bundle_id for each in self.spool for bundle_id in each.bundles]
        return list(dict.fromkeys([*self.held, *self.outcomes, *unapplied]))

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

    def _seal(self) -> None:
        if self.outcomes:
            sealed = self._sealed(outcomes=dict(self.outcomes))
            self.spool.append(_Spooled(sealed, tuple(self.outcomes)))
            self.outcomes.clear()

    def _sealed(self, **what: Any) -> bytes:
        report = Report(self.place.id, self.name, self.instance, **what)
        return report.seal(self.place.signer, self.world.clock(), names.new_id())

    def _push(self, report: _Spooled) -> bool:
        self.world.past_reports.append((self.place, report.sealed))
        try:
            report.position = self.world.site.push_report(self.place, report.sealed)
        except redis.ConnectionError:
            return False
        return True
