"""An endpoint without a process: it opens bundles as a worker does, and reports given outcomes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from federation.context import Federation
from federation.registry import endpoints
from federation.registry.users import User
from tests.support.memory_broker import MemoryBroker
from tests.support.watched_broker import WatchedBroker
from umbel.protocol import names
from umbel.protocol.envelope import Signer, Verifier, new_private_key
from umbel.protocol.messages import Bundle, Call, Heartbeat, Outcome, Report, Status
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
    """One worker node: ``held`` are the bundles that it took and has not reported, in order."""

    def __init__(self, endpoint: FakeEndpoint, name: str, slots: int):
        self.endpoint, self.name, self.slots = endpoint, name, slots
        self.instance = names.new_id()
        self.incarnation = 1
        self.order = 0
        self.held: dict[str, Bundle] = {}
        self.last_report = b""
        self.verifier = Verifier(endpoint.fed.signer.public_key)

    def take(self, most: int = 1_000_000) -> list[Bundle]:
        """Take up to ``most`` bundles out of the queue, checking each as a worker does."""
        taken: list[Bundle] = []
        while len(taken) < most:
            item = self.endpoint.broker.pop(self.endpoint.id)
            if item is None:
                break
            bundle, header = Bundle.open_head(
                self.verifier, item.head, endpoint=self.endpoint.id, now=time.time()
            )
            bundle = bundle.with_body(header, item.body)
            assert (bundle.id, len(bundle.calls)) == (item.bundle_id, item.calls)
            self.held[bundle.id] = bundle
            taken.append(bundle)
        return taken

    def beat(self, held: Iterable[str] | None = None, **facts: Any) -> None:
        """Send a heartbeat, with what it holds or says it holds."""
        says = list(self.held if held is None else held)
        known = {"python": "3.11.7", **facts}
        self._send(heartbeat=Heartbeat(self.slots, min(self.slots, len(says)), says, known))

    def goodbye(self) -> None:
        """Stop cleanly, leaving what it holds."""
        self.held.clear()
        self._send(goodbye=True)

    def restart(self) -> None:
        """Die and start again: a new instance under the old name, with empty hands."""
        self.instance = names.new_id()
        self.incarnation += 1
        self.order = 0
        self.held.clear()
        self.beat()

    def report(self, outcomes: dict[str, list[Outcome]]) -> None:
        """Report outcomes by bundle id, and hold those bundles no more when all of them have ended."""
        self._send(outcomes=outcomes)
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

    def _send(self, **what: Any) -> None:
        self.order += 1
        run = {"incarnation": self.incarnation, "order": self.order}
        report = Report(self.endpoint.id, self.name, self.instance, **what, **run)
        self.last_report = report.seal(self.endpoint.signer, time.time(), names.new_id())
        self.repeat()


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
