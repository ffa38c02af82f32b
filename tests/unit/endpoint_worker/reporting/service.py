"""The service's side of an endpoint's reports, and a node without runners."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fakeredis

from endpoint_worker.broker.fetches import Fetches
from endpoint_worker.reporting.outbox import Outbox
from endpoint_worker.reporting.presence import Load, Origin
from umbel.protocol import names
from umbel.protocol.envelope import Signer, Verifier, new_private_key
from umbel.protocol.messages import OpenReport, Outcome, Report, Status
from umbel.protocol.node_state import Beat, NodeState

KEY = Signer(new_private_key())
VERIFIER = Verifier(KEY.public_key)
ENDPOINT = names.new_id()


class View:
    """A node that holds the bundles in ``work`` and those with reports of ``box``."""

    def __init__(self) -> None:
        self.box: Outbox | None = None
        self.work: set[str] = set()
        self.slots = 2
        self.facts: dict[str, Any] = {"python": "3.12"}
        self.given_back: list[bytes] = []

    def held(self) -> set[str]:
        return self.work | set(self.box.held if self.box else ())

    def describe(self) -> tuple[int, dict[str, Any]]:
        return self.slots, dict(self.facts)

    def load(self) -> Load:
        return Load(len(self.work))

    def give_back(self, message: bytes) -> None:
        self.given_back.append(message)
        if self.box is not None:
            self.box.add(message.decode(), [outcome("t", status=Status.RETURNED)])


class Service:
    """Takes reports as a collector does."""

    def __init__(self, client: fakeredis.FakeRedis):
        self.client = client
        self.frames: list[bytes] = []

    @property
    def reports(self) -> list[OpenReport]:
        """Take what is there; return all reports so far, oldest first, verified."""
        self.take()
        return [Report.open(VERIFIER, frame) for frame in self.frames if frame[:4] != b"UMBP"]

    def take(self, most: int = 1_000_000) -> int:
        """Take reports from the list; return how many."""
        count = 0
        while count < most and (frame := self.client.rpop(names.reports_key(ENDPOINT))) is not None:
            self.frames.append(frame)
            self.client.incr(names.applied_key(ENDPOINT))
            count += 1
        return count

    def know(self, instance: str = "i1") -> None:
        """Confirm that the ledger has an instance."""
        self.client.sadd(names.known_key(ENDPOINT), instance)

    def held(self, instance: str = "i1") -> set[str]:
        """The bundles that an instance holds, as the broker has them."""
        return {each.decode() for each in self.client.smembers(names.held_key(ENDPOINT, instance))}

    def beat(self, instance: str = "i1") -> Beat | None:
        """The beat of an instance."""
        found = self.client.hget(names.beats_key(ENDPOINT), instance)
        return None if found is None else Beat.read(found)

    def node(self, instance: str = "i1") -> NodeState | None:
        """The description of an instance, verified."""
        found = self.client.hget(names.nodes_key(ENDPOINT), instance)
        return (
            None if found is None else NodeState.open(VERIFIER, found, endpoint=ENDPOINT, instance=instance)
        )


def outcome(task: str, payload: bytes = b"", status: str = Status.SUCCEEDED) -> Outcome:
    return Outcome(task, 1, status, 1.0, 0.5, payload=payload)


def payloads(found: list[OpenReport]) -> list[tuple[str, str, bytes]]:
    return [
        (row.bundle_id, row.task_id, report.body[row.offset : row.offset + row.size])
        for report in found
        for row in report.rows
    ]


def make(client: Any, spool: Path, instance: str = "i1", node: str = "n1") -> tuple[Outbox, View]:
    """An outbox that is not started, and its view of the node."""
    view = View()
    box = Outbox(KEY, Origin(ENDPOINT, node, instance), spool, client, view)
    view.box = box
    return box, view


@contextmanager
def opened(
    server: fakeredis.FakeServer, spool: Path, instance: str = "i1"
) -> Iterator[tuple[Outbox, View, Service]]:
    """A running outbox, closed at the end, when the service takes what is left."""
    with fakeredis.FakeRedis(server=server) as client, fakeredis.FakeRedis(server=server) as other:
        box, view = make(client, spool, instance)
        service = Service(other)
        box.start()
        try:
            yield box, view, service
        finally:
            if server.connected:
                service.take()
            box.close(0.3)


def fetch(client: fakeredis.FakeRedis, fetches: Fetches) -> bytes | None:
    """Move a message as the Celery transport does, and deliver it."""
    current = fetches.begin()
    raw: Any = client.lmove(fetches.source, fetches.target, "RIGHT", "LEFT")
    if raw is not None:
        fetches.deliver(current, raw, lambda: None)
    current.end()
    return raw  # type: ignore[no-any-return]
