"""An endpoint without a process: it opens bundles as a worker does, and reports given outcomes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from federation.context import Federation
from federation.registry import endpoints
from federation.registry.users import User
from tests.support.memory_broker import MemoryBroker
from tests.support.watched_broker import WatchedBroker
from umbel.protocol import names
from umbel.protocol.envelope import Signer, Verifier, new_private_key
from umbel.protocol.messages import Bundle, Call, Outcome, Report, Status
from umbel.protocol.node_state import Beat, NodeState
from umbel.serialization.exceptions import dump_exception


class FakeEndpoint:
    """A registered endpoint with its signing key. ``nodes`` are made by ``node()``."""

    def __init__(self, fed: Federation, broker: MemoryBroker | WatchedBroker, owner: User, name: str):
        self.fed, self.broker, self.name = fed, broker, name
        self.signer = Signer(new_private_key())
        self.id: str = endpoints.register(fed, owner, name=name, public_key=self.signer.public_key)["id"]
        self.no: int = endpoints.find(fed, owner, name).no

    def node(self, name: str = "n1", slots: int = 2, *, beat: bool = True) -> FakeNode:
        """A worker node, which has sent its first heartbeat unless ``beat`` is False."""
        node = FakeNode(self, name, slots)
        if beat:
            node.beat()
        return node

    def queued_calls(self) -> int:
        """How many calls lie in the endpoint's queue."""
        return sum(item.calls for item in self.broker.queues[self.id])


class FakeNode:
    """One worker node. It follows the rules of docs/decisions/0030-holdings.rst, one step at a time.

    ``held`` are the bundles that it took and has not reported, in order; ``unapplied`` are its reports that
    collectors have not taken: position, bytes, and ids of bundles.
    """

    def __init__(self, endpoint: FakeEndpoint, name: str, slots: int):
        self.endpoint, self.name, self.slots = endpoint, name, slots
        self.redis: Any = endpoint.broker.server
        self.instance = names.new_id()
        self.incarnation = 1
        self.beats = 0
        self.announced = False
        self.held: dict[str, Bundle] = {}
        self.unapplied: list[tuple[int, bytes, set[str]]] = []
        self.last_report = b""
        self.verifier = Verifier(endpoint.fed.signer.public_key)

    def take(self, most: int = 1_000_000, *, note: bool = True) -> list[Bundle]:
        """Take up to ``most`` bundles out of the queue, checking each as a worker does.

        ``note``: write that it holds them; otherwise the messages stay in the list of fetched ones.
        """
        taken: list[Bundle] = []
        while len(taken) < most:
            found = self.endpoint.broker.fetch(self.endpoint.id, self.instance)
            if found is None:
                break
            message, item = found
            bundle, header = Bundle.open_head(
                self.verifier, item.head, endpoint=self.endpoint.id, now=time.time()
            )
            bundle = bundle.with_body(header, item.body)
            assert (bundle.id, len(bundle.calls)) == (item.bundle_id, item.calls)
            self.held[bundle.id] = bundle
            taken.append(bundle)
            if note:
                self.redis.sadd(self._held_key, bundle.id)
                self.redis.lrem(names.fetched_key(self.endpoint.id, self.instance), -1, message)
        return taken

    def beat(self, **facts: Any) -> None:
        """Write a beat; announce itself if its beat is missing, or its facts have changed."""
        self.beats += 1
        beats, key = names.beats_key(self.endpoint.id), self.instance
        missing = not self.redis.hexists(beats, key)
        if missing or facts:
            self._announce(again=missing and self.announced, **facts)
        else:
            self.redis.hset(beats, key, Beat(1, self.beats, min(self.slots, len(self.held))).write())
        self.sync()

    def sync(self) -> None:
        """Note which reports collectors have taken; write what it holds."""
        applied = int(self.redis.get(names.applied_key(self.endpoint.id)) or 0)
        self.unapplied = [each for each in self.unapplied if each[0] > applied]
        holds = set(self.held).union(*(bundles for _, _, bundles in self.unapplied))
        written = {each.decode() for each in self.redis.smembers(self._held_key)}
        if holds - written:
            self.redis.sadd(self._held_key, *holds - written)
        if written - holds:
            self.redis.srem(self._held_key, *written - holds)

    def goodbye(self) -> None:
        """Stop cleanly, leaving what it holds."""
        self.held.clear()
        self._push(goodbye=True)
        self.endpoint.broker.node_states.remove(self.endpoint.id, [self.instance])

    def restart(self) -> None:
        """Die and start again: a new instance under the old name, with empty hands."""
        self.instance = names.new_id()
        self.incarnation += 1
        self.beats, self.announced = 0, False
        self.held.clear()
        self.unapplied.clear()
        self.beat()

    def report(self, outcomes: dict[str, list[Outcome]]) -> None:
        """Report outcomes by bundle id, and hold those bundles no more when all of them have ended."""
        self._push(outcomes=outcomes)
        for bundle_id, ended in outcomes.items():
            if bundle_id in self.held and all(outcome.status != Status.RUNNING for outcome in ended):
                del self.held[bundle_id]

    def finish(self, bundles: Sequence[Bundle] | None = None, **how: Any) -> int:
        """Report all calls of bundles (default: of all it holds) at once; return how many."""
        chosen = list(self.held.values() if bundles is None else bundles)
        if chosen:
            self.report(
                {bundle.id: [outcome(bundle, call, **how) for call in bundle.calls] for bundle in chosen}
            )
        return sum(len(bundle.calls) for bundle in chosen)

    def repeat(self) -> None:
        """Send the last report once more, byte by byte."""
        self.endpoint.broker.push_report(self.endpoint.id, self.last_report)

    @property
    def _held_key(self) -> str:
        return names.held_key(self.endpoint.id, self.instance)

    def _announce(self, again: bool = False, **facts: Any) -> None:
        """Write its description, its beat and what it holds; push again what collectors have not taken."""
        known = {"python": "3.11.7", "packages": {}, **facts}
        of = self.endpoint.id
        state = NodeState(of, self.name, self.instance, self.incarnation, self.beats, self.slots, known)
        holds = set(self.held).union(*(bundles for _, _, bundles in self.unapplied))
        pipe = self.redis.pipeline(transaction=True)
        if holds:
            pipe.sadd(self._held_key, *holds)
        pipe.hset(names.nodes_key(of), self.instance, state.seal(self.endpoint.signer, time.time()))
        beat = Beat(self.beats, self.beats, min(self.slots, len(self.held)))
        pipe.hset(names.beats_key(of), self.instance, beat.write())
        pipe.execute()
        self.announced = True
        if again:
            waiting, self.unapplied = self.unapplied, []
            for _, sealed, bundles in waiting:
                self._push_sealed(sealed, bundles)

    def _push(self, **what: Any) -> None:
        report = Report(self.endpoint.id, self.name, self.instance, **what)
        self.last_report = report.seal(self.endpoint.signer, time.time(), names.new_id())
        self._push_sealed(self.last_report, set(what.get("outcomes", ())))

    def _push_sealed(self, sealed: bytes, bundles: set[str]) -> None:
        waiting = self.redis.lpush(names.reports_key(self.endpoint.id), sealed)
        applied = int(self.redis.get(names.applied_key(self.endpoint.id)) or 0)
        self.unapplied.append((applied + waiting, sealed, bundles))


def outcome(bundle: Bundle, call: Call, status: str = Status.SUCCEEDED, **how: Any) -> Outcome:
    """What became of one call; by default it succeeded, and its result is ``b"r:"`` and its arguments."""
    if status == Status.SUCCEEDED:
        how.setdefault("payload", b"r:" + bundle.body[call.offset : call.offset + call.size])
    if status in (Status.SUCCEEDED, Status.FAILED, Status.RUNNING, Status.LOST):
        how.setdefault("started", time.time())
        how.setdefault("wall", 0.001)
    if status == Status.FAILED:
        how.setdefault("code", "TASK_ERROR")
        how.setdefault("message", "ValueError: no")
        how.setdefault("payload", dump_exception(ValueError("no")) if how["code"] == "TASK_ERROR" else b"")
    return Outcome(call.task_id, call.attempt, status, **how)
