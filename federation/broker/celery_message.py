"""The Celery message of a bundle, in the format of kombu's Redis transport.

Publishing through Celery costs more than the rest of sending a bundle (a client object, a channel and several
encodings per message) and cannot write the bundle's body and its message in one round trip. The format is
Celery's message protocol, version 2 (docs.celeryq.dev, "Message Protocol"), inside kombu's envelope for
transports without headers (kombu.transport.virtual.Message.serializable). A test compares it with a message
that Celery writes.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from umbel.protocol import checks, names

_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def bundle_message(
    endpoint_id: str, bundle_id: str, head: str, body: str | None, function_name: str, calls: int
) -> bytes:
    """Return the message of a bundle for its endpoint's queue.

    ``head``, ``body``: base64 (``body`` None: stored under its own key). Flower displays the function's name
    and the number of calls.
    """
    summary = f"{calls} call of {function_name}" if calls == 1 else f"{calls} calls of {function_name}"
    headers: dict[str, Any] = {
        "lang": "py",
        "task": names.RUN_TASK,
        "id": bundle_id,
        "shadow": function_name,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": bundle_id,
        "parent_id": None,
        "argsrepr": summary,
        "kwargsrepr": "{}",
        "origin": "umbel",
        "ignore_result": True,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    message = {
        "body": json.dumps([[head, body], {}, _EMBED]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": _properties(endpoint_id, bundle_id),
    }
    return json.dumps(message).encode()


def bundle_id(message: bytes) -> str | None:
    """Return the id of the bundle in a message from an endpoint's queue; None if it is not one."""
    try:
        return checks.identifier(json.loads(message)["headers"]["id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _properties(endpoint_id: str, bundle_id: str) -> dict[str, Any]:
    return {
        "correlation_id": bundle_id,
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": names.queue_key(endpoint_id)},
        "priority": 0,
        "body_encoding": "utf-8",
        "delivery_tag": str(uuid.uuid4()),
    }
