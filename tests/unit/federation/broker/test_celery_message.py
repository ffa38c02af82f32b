"""The generated message equals the one that Celery and kombu create."""

from __future__ import annotations

import json
import queue

from celery import Celery
from kombu import Connection
from kombu.transport.virtual import Message

from federation.broker.celery_message import bundle_message
from umbel.protocol import names


def _celerys_own() -> dict:
    app = Celery("test", broker="memory://", set_as_current=False)
    message = app.amqp.as_task_v2(
        "bundle-1",
        names.RUN_TASK,
        args=["head", None],
        kwargs={},
        ignore_result=True,
        shadow="dock",
        argsrepr="37 calls of dock",
        kwargsrepr="{}",
    )
    with Connection("memory://") as connection, connection.channel() as channel:
        channel.queue_declare(names.queue_key("lab"))
        producer = connection.Producer(channel, auto_declare=False)
        producer.publish(
            message.body,
            exchange="",
            routing_key=names.queue_key("lab"),
            headers=message.headers,
            serializer="json",
            **message.properties,
        )
        try:
            return channel._get(names.queue_key("lab"))
        except queue.Empty:
            raise AssertionError("kombu did not deliver") from None


def test_same_fields_as_celerys_own():
    own = _celerys_own()
    ours = json.loads(bundle_message("lab", "bundle-1", "head", None, "dock", 37))
    assert ours.keys() == own.keys()
    assert ours["properties"].keys() == own["properties"].keys()
    own["headers"]["origin"] = ours["headers"]["origin"]
    assert json.loads(json.dumps(own["headers"])) == ours["headers"]
    for name in ("content-type", "content-encoding"):
        assert ours[name] == own[name]


def test_kombu_decodes_it_to_the_arguments():
    raw = json.loads(bundle_message("lab", "bundle-1", "head", "body", "dock", 1))
    with Connection("memory://") as connection, connection.channel() as channel:
        message = Message(raw, channel=channel, accept={"application/json"})
        args, kwargs, embed = message.decode()
    assert (args, kwargs) == (["head", "body"], {})
    assert embed["callbacks"] is None
    assert message.headers["argsrepr"] == "1 call of dock"
