"""The real broker client on a real redis-server, with a look at what is in the server."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import redis

from federation.broker.client import Broker, Outgoing
from tests.support.embedded import free_port
from umbel.protocol import names


class WatchedBroker(Broker):
    """Behaves as ``federation.broker.client.Broker``; everything it sends and answers goes through Redis.

    ``down``: it behaves as if the server could not be reached. ``deaf``: it accepts bundles and loses them on
    the way. ``sends``: number of bundles it was asked to send.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.sends = 0
        self.deaf = False
        self._address, self._server = url, self.redis
        self._woken: list[str] = []
        self._listener = self.redis.pubsub()
        self._listener.subscribe(names.WAKE_CHANNEL)
        self._settle()

    @property
    def down(self) -> bool:
        """Whether nothing answers at the address that this client uses."""
        return self.redis is not self._server

    @down.setter
    def down(self, value: bool) -> None:
        if self.down:
            self.redis.close()
        self.url, self.redis = self._address, self._server
        if value:
            self.url = f"redis://127.0.0.1:{free_port()}/0"
            self.redis = redis.Redis.from_url(self.url)

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        """Send bundles, or lose them if ``deaf``."""
        self.sends += len(outgoing)
        super().send(() if self.deaf else outgoing)

    @property
    def server(self) -> Any:
        """A client of the server, whatever state this broker simulates."""
        return self._server

    def pop(self, endpoint_id: str) -> Outgoing | None:
        """Lose the oldest bundle of a queue: it goes to nobody."""
        message = self._server.rpop(names.queue_key(endpoint_id))
        return None if message is None else self._parse(endpoint_id, message)

    def fetch(self, endpoint_id: str, instance: str) -> tuple[bytes, Outgoing] | None:
        """Move the oldest bundle of a queue to an instance, as a worker does; return the message, too."""
        key = names.fetched_key(endpoint_id, instance)
        message = self._server.lmove(names.queue_key(endpoint_id), key, "RIGHT", "LEFT")
        return None if message is None else (message, self._parse(endpoint_id, message))

    @property
    def queues(self) -> dict[str, list[Outgoing]]:
        """The bundles in each endpoint's queue by endpoint id, oldest first."""
        found: dict[str, list[Outgoing]] = defaultdict(list)
        for key in self._server.scan_iter(match=names.queue_key("*")):
            endpoint_id = _endpoint_of(key)
            messages = self._server.lrange(key, 0, -1)
            found[endpoint_id] = [self._parse(endpoint_id, message) for message in reversed(messages)]
        return found

    @property
    def cancelled(self) -> dict[str, list[str]]:
        """The ids of the calls that workers must stop, by endpoint id."""
        found: dict[str, list[str]] = defaultdict(list)
        for key in self._server.scan_iter(match=names.cancelled_key("*")):
            found[_endpoint_of(key)] = [task_id.decode() for task_id in self._server.zrange(key, 0, -1)]
        return found

    @property
    def woken(self) -> list[str]:
        """The ids that were published to web servers, in order."""
        self._settle()
        return self._woken

    def push_report(self, endpoint_id: str, report: bytes) -> None:
        """Send a sealed report, as a worker of this endpoint does."""
        self._server.lpush(names.reports_key(endpoint_id), report)

    def reports(self) -> int:
        """Return the number of reports that wait to be applied."""
        keys = self._server.scan_iter(match=names.reports_key("*"), _type="list")
        return sum(int(self._server.llen(key)) for key in keys)

    def wipe(self) -> None:
        """Lose everything."""
        self._server.flushall()

    def close(self) -> None:
        """Close all connections."""
        self.down = False
        self._listener.close()
        super().close()

    def _parse(self, endpoint_id: str, message: bytes) -> Outgoing:
        outer = json.loads(message)
        (head, body), _, _ = json.loads(outer["body"])
        bundle_id = outer["headers"]["id"]
        raw = self._server.get(names.body_key(endpoint_id, bundle_id)) if body is None else None
        calls = int(outer["headers"]["argsrepr"].split()[0])
        data = base64.b64decode(body) if raw is None else raw
        name = outer["headers"]["shadow"]
        return Outgoing(endpoint_id, bundle_id, base64.b64decode(head), data, name, "", b"", calls, 0)

    def _settle(self) -> None:
        """Read what was published until now: the answer to PING comes after it."""
        self._listener.ping()
        while True:
            message: Any = self._listener.get_message(timeout=10)
            assert message is not None, "the broker does not answer"
            if message["type"] == "pong":
                return
            if message["type"] == "message":
                self._woken += message["data"].decode().split(",")


def _endpoint_of(key: bytes) -> str:
    return key.decode().split(":")[1]
