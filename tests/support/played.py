"""An endpoint simulated by a test: takes real messages from its queue and answers with signed reports."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import redis

from federation.context import Federation
from federation.registry import endpoints
from federation.registry.users import User
from federation.services.collector import Collector
from umbel.protocol import grant, names
from umbel.protocol.envelope import Signer, Verifier, new_private_key
from umbel.protocol.messages import Bundle, Call, Outcome, Report, Status
from umbel.protocol.node_state import Beat, NodeState

#: What a played endpoint does with one call: its bundle, the call and its arguments as bytes.
Play = Callable[[Bundle, Call, bytes], Outcome]


def echo(bundle: Bundle, call: Call, payload: bytes) -> Outcome:
    """End a call with its own arguments as result."""
    return Outcome(call.task_id, call.attempt, Status.SUCCEEDED, time.time(), 0.001, payload=payload)


def fail(bundle: Bundle, call: Call, payload: bytes) -> Outcome:
    """End a call with an exception."""
    return Outcome(
        call.task_id,
        call.attempt,
        Status.FAILED,
        time.time(),
        0.25,
        "TASK_ERROR",
        "ValueError: no",
        None,
        b"{}",
    )


class PlayedEndpoint:
    """An endpoint of ``user`` with one node; ``node_slots`` calls at once. Nothing happens by itself."""

    def __init__(self, fed: Federation, user: User, name: str, node_slots: int = 4):
        self.fed = fed
        self._signer = Signer(new_private_key())
        made = endpoints.register(fed, user, name=name, public_key=self._signer.public_key)
        self.id: str = made["id"]
        self._redis: Any = redis.Redis.from_url(made["credentials"]["broker_url"])
        self._verifier = Verifier(base64.b64decode(made["credentials"]["service_key"]))
        self._instance = names.new_id()
        self._slots, self._beats = node_slots, 0
        self._collector = Collector(fed, f"played-{name}")

    def beat(self) -> None:
        """Report that the node lives."""
        facts = {"python": "3.12.1", "platform": "Linux", "hostname": "n1"}
        self._beats += 1
        state = NodeState(self.id, "n1", self._instance, 1, 1, self._slots, facts)
        sealed = state.seal(self._signer, time.time())
        self._redis.hset(names.nodes_key(self.id), self._instance, sealed)
        self._redis.hset(names.beats_key(self.id), self._instance, Beat(1, self._beats).write())
        self._collector.watch.look([self.id])

    def play(self, how: Play = echo) -> int:
        """Take what lies in the queue and end each call with ``how``; return how many there were."""
        count = 0
        queue, fetched = names.queue_key(self.id), names.fetched_key(self.id, self._instance)
        while (message := self._redis.blmove(queue, fetched, 0.05, "RIGHT", "LEFT")) is not None:
            bundle = self._open(message)
            outcomes = [how(bundle, c, bundle.body[c.offset : c.offset + c.size]) for c in bundle.calls]
            self._report(outcomes={bundle.id: outcomes})
            count += len(outcomes)
        return count

    def take(self) -> Bundle:
        """Take the next message and leave its calls running."""
        taken = self._redis.brpop([names.queue_key(self.id)], 5)
        assert taken is not None, "nothing lies in the queue"
        return self._open(taken[1])

    def end(self, bundle: Bundle, how: Play = echo) -> None:
        """End the calls of a bundle that was taken."""
        outcomes = [how(bundle, c, bundle.body[c.offset : c.offset + c.size]) for c in bundle.calls]
        self._report(outcomes={bundle.id: outcomes})

    def grant(self, bundle_id: str, now: float | None = None) -> str:
        """The grant of a bundle, signed with the key of this endpoint."""
        return grant.write(self._signer, self.id, bundle_id, time.time() if now is None else now)

    def close(self) -> None:
        """Close the connections to the broker."""
        self._collector.close()
        self._redis.close()

    def _open(self, message: bytes) -> Bundle:
        (head, body), _, _ = json.loads(json.loads(message)["body"])
        bundle, header = Bundle.open_head(
            self._verifier, base64.b64decode(head), endpoint=self.id, now=time.time()
        )
        if body is None:
            raw = self._redis.get(names.body_key(self.id, bundle.id))
            assert raw is not None
            return bundle.with_body(header, raw)
        return bundle.with_body(header, base64.b64decode(body))

    def _report(self, outcomes: dict[str, list[Outcome]]) -> None:
        report = Report(self.id, "n1", self._instance, outcomes)
        sealed = report.seal(self._signer, time.time(), names.new_id())
        self._redis.lpush(names.reports_key(self.id), sealed)
        self._collector.look()
        self._collector.collect(5.0)
