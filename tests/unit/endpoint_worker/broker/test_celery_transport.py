"""The Celery transport against a real redis-server: messages are moved, not removed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.utils.json import dumps

from endpoint_worker.broker import outage
from endpoint_worker.broker.celery_transport import Channel, Connection, NodeLink
from endpoint_worker.broker.fetches import Fetches
from tests.support.broker import running_broker
from tests.support.wait import wait_until
from umbel.protocol import names

ENDPOINT = names.new_id()
QUEUE, FETCHED = names.queue_key(ENDPOINT), names.fetched_key(ENDPOINT, "i1")


class Consuming:
    """A consumer of the endpoint's queue, driven by ``drain``."""

    def __init__(self, url: str):
        self.fetches = Fetches(ENDPOINT, "i1")
        self.broker = redis.Redis.from_url(url)
        self.received: list[Any] = []
        self.connection = Connection(
            url,
            transport="endpoint_worker.broker.celery_transport:Transport",
            transport_options={
                "global_keyprefix": names.prefix(ENDPOINT),
                "priority_steps": [0],
                "node": NodeLink(self.fetches, self.broker.connection_pool),
            },
        )
        self.channel: Channel = self.connection.default_channel
        self.consumer = self.connection.SimpleQueue(names.QUEUE).consumer
        self.consumer.callbacks = [lambda body, message: self.receive(body, message)]
        self.consumer.consume()

    def receive(self, body: Any, message: Any) -> None:
        self.received.append(body)
        message.ack()

    def send(self, *bodies: Any) -> None:
        """Push messages as the service does."""
        for body in bodies:
            properties = {
                "delivery_tag": names.new_id(),
                "delivery_info": {"exchange": "", "routing_key": names.QUEUE},
            }
            message = {"body": json.dumps(body), "content-type": "application/json", "headers": {}}
            message |= {"content-encoding": "utf-8", "properties": properties}
            self.broker.lpush(QUEUE, json.dumps(message))

    def drain(self, until: Callable[[], Any], seconds: float = 10.0) -> None:
        """Handle events until a condition holds."""

        def done() -> bool:
            try:
                self.connection.drain_events(timeout=0.05)
            except TimeoutError:
                pass
            return bool(until())

        wait_until(done, seconds, what="the condition")

    def fetched(self) -> int:
        return int(self.broker.llen(FETCHED))


@pytest.fixture
def consuming(tmp_path: Path) -> Iterator[Consuming]:
    with running_broker(tmp_path) as url:
        consuming = Consuming(url)
        try:
            yield consuming
        finally:
            consuming.connection.release()
            consuming.broker.close()


def test_nothing_is_fetched_before_it_is_allowed(consuming: Consuming) -> None:
    consuming.send("one", "two")
    began = time.monotonic()
    consuming.drain(lambda: time.monotonic() - began > 0.3)
    assert not consuming.received and consuming.broker.llen(QUEUE) == 2
    consuming.fetches.allow()
    consuming.drain(lambda: len(consuming.received) == 2)
    assert consuming.received == ["one", "two"]
    assert consuming.fetched() == 2 and len(consuming.fetches.take()) == 2


def test_garbage_is_noted_as_delivered(consuming: Consuming) -> None:
    consuming.fetches.allow()
    consuming.broker.lpush(QUEUE, b"\0\xff", b"{}")
    consuming.send("good")
    consuming.drain(lambda: consuming.received)
    assert consuming.received == ["good"] and consuming.fetches.take()[:2] == [b"\0\xff", b"{}"]


def test_a_message_of_a_connection_that_broke_stays_in_the_list(consuming: Consuming) -> None:
    consuming.fetches.allow()
    consuming.drain(lambda: consuming.fetches.issued == 1)
    consuming.send("lost")
    wait_until(lambda: consuming.fetched() == 1, what="the message is moved")
    consuming.channel.client.connection.disconnect()
    assert consuming.fetches.ended == consuming.fetches.issued and not consuming.received
    consuming.send("next")
    consuming.drain(lambda: consuming.received)
    assert consuming.received == ["next"] and consuming.fetched() == 2
    assert len(consuming.fetches.take()) == 1


def test_a_consumer_that_has_stopped_leaves_its_last_message_in_the_list(consuming: Consuming) -> None:
    """kombu would put it back into the queue, where a reader may have looked already."""
    consuming.fetches.allow()
    consuming.drain(lambda: consuming.fetches.issued == 1)
    consuming.consumer.cancel()
    consuming.send("late")
    consuming.drain(lambda: consuming.fetches.ended == 1)
    assert not consuming.received and not consuming.fetches.take()
    assert consuming.fetched() == 1 and consuming.broker.llen(QUEUE) == 0


def test_a_message_that_is_on_its_way_is_received_at_the_end(consuming: Consuming) -> None:
    consuming.fetches.allow()
    consuming.drain(lambda: consuming.fetches.issued == 1)
    consuming.send("late")
    consuming.channel.settle()
    assert consuming.received == ["late"] and consuming.fetches.ended == 1
    consuming.channel.close()
    assert consuming.channel.closed


def test_closing_with_an_unanswered_command_ends_the_fetch(consuming: Consuming) -> None:
    consuming.fetches.allow()
    consuming.drain(lambda: consuming.fetches.issued == 1)
    consuming.broker.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    consuming.channel.close()
    assert consuming.channel.closed and consuming.fetches.ended == 1


def test_an_error_of_the_server_is_a_reason_to_connect_again(consuming: Consuming) -> None:
    consuming.broker.set(QUEUE, "not a list")
    consuming.fetches.allow()
    with pytest.raises(consuming.connection.connection_errors):
        consuming.drain(lambda: False, 5.0)
    assert consuming.fetches.ended == consuming.fetches.issued


def test_an_error_while_a_message_is_handled_leaves_it_undelivered(consuming: Consuming) -> None:
    def flawed(body: Any, message: Any) -> None:
        raise redis.ConnectionError("an event cannot be sent")

    consuming.receive = flawed  # type: ignore[method-assign]
    consuming.fetches.allow()
    consuming.send("one")
    with pytest.raises(redis.ConnectionError):
        consuming.drain(lambda: False, 5.0)
    assert not consuming.fetches.take() and consuming.fetches.ended == consuming.fetches.issued
    assert consuming.fetched() == 1


def test_an_old_server_is_named() -> None:
    error = redis.ResponseError("unknown command 'BLMOVE', with args beginning with: 'q'")
    assert "6.2" in outage.describe(error) and "BLMOVE" in outage.describe(error)


def test_remote_commands_can_show_the_options(consuming: Consuming) -> None:
    assert json.loads(dumps(consuming.connection.info()))["transport_options"]["node"] is None
