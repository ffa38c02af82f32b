"""Names: ids, Redis keys, Celery task and queue names."""

from __future__ import annotations

import os
import re
import uuid

#: The one Celery task that endpoints run; Flower shows the user's function instead (``shadow``).
RUN_TASK = "umbel.run"
#: Celery's name of an endpoint's queue, below the endpoint's key prefix.
QUEUE = "q"
#: Celery remote-control command that ends or skips calls.
CANCEL_COMMAND = "umbel_cancel"
#: Celery remote-control command that has a worker take nothing more, finish, and end.
LEAVE_COMMAND = "umbel_leave"
#: Redis list that endpoints push reports to and only the collector reads.
REPORTS_KEY = "umbel:reports"
#: Redis pub/sub channel that carries the ids of groups with news.
WAKE_CHANNEL = "umbel:wake"
#: Redis key whose absence tells that the broker lost its data.
EPOCH_KEY = "umbel:epoch"

#: Name of a batch job, and the beginning of the names of its worker nodes.
_BLOCK = re.compile(r"(umbel-[0-9a-f]{8}-[0-9a-f]{8})\.")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")


def valid_name(text: str) -> bool:
    """Tell whether ``text`` may name an endpoint: 1 to 63 letters, digits, ``_ . -``, not starting with a
    mark."""
    return bool(_NAME.match(text))


def is_id(text: str) -> bool:
    """Tell whether ``text`` is an id as Umbel writes them: a lower-case UUID with dashes."""
    return bool(_UUID.match(text))


def block_of(node: str) -> str | None:
    """Name of the batch job that a worker node (``<block>.<host>``) belongs to; None for any other node."""
    found = _BLOCK.match(node)
    return found[1] if found else None


def new_id() -> str:
    """Return a random id (UUID version 4): for groups, functions, endpoints, bundles, reports."""
    return str(uuid.uuid4())


def new_task_ids(count: int, seconds: float) -> list[str]:
    """Return ``count`` task ids (UUID version 7) that sort in this order.

    ``seconds``: since 1970, whose fraction counts to a quarter of a microsecond, so that ids of submissions
    that follow each other sort, too (RFC 9562, section 6.2, method 3: increased clock precision). One random
    start per call and then counting by one keeps ids unguessable from outside a submission and makes ten
    thousand of them cheap (method 2: monotonic random).
    """
    # 62 random bits (rand_b), the top bit kept clear so that counting never overflows
    start = int.from_bytes(os.urandom(8), "big") >> 3
    millis, fraction = divmod(int(seconds * 4_096_000), 4096)
    high = f"{millis & 0xFFFFFFFFFFFF:012x}"
    head = f"{high[:8]}-{high[8:]}-7{fraction:03x}-"
    ids = []
    for tail in range(start, start + count):
        text = f"{tail | 0x8000000000000000:016x}"
        ids.append(f"{head}{text[:4]}-{text[4:]}")
    return ids


def prefix(endpoint_id: str) -> str:
    """Key prefix of everything that an endpoint may touch in Redis."""
    # ends in ':' because Celery's result backend appends '_' to any other ending
    return f"/ep:{endpoint_id}:"


def queue_key(endpoint_id: str) -> str:
    """Redis key of an endpoint's Celery queue."""
    return prefix(endpoint_id) + QUEUE


def body_key(endpoint_id: str, bundle_id: str) -> str:
    """Redis key of a bundle's body that travels beside its message."""
    return f"{prefix(endpoint_id)}body:{bundle_id}"


def function_key(endpoint_id: str, sha256: str) -> str:
    """Redis key of a serialized function, kept for the endpoint's workers."""
    return f"{prefix(endpoint_id)}fn:{sha256}"


def cancelled_key(endpoint_id: str) -> str:
    """Redis sorted set of task ids cancelled while dispatched (score: seconds since 1970)."""
    return f"{prefix(endpoint_id)}cancelled"


def broker_user(endpoint_id: str) -> str:
    """Redis ACL user of an endpoint."""
    return f"ep-{endpoint_id}"
