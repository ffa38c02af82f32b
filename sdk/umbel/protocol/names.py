"""Names: ids, Redis keys, Celery task and queue names."""

from __future__ import annotations

import os
import re
import uuid

from .version import PROTOCOL_VERSION

#: The only Celery task of an endpoint. Flower shows the user's function instead (``shadow``).
RUN_TASK = "umbel.run"
#: Name of an endpoint's Celery queue, below the endpoint's key prefix. Workers of another protocol version
#: could only discard what is in it, so each version has its own.
QUEUE = f"q{PROTOCOL_VERSION}"
#: Celery remote-control command that cancels calls.
CANCEL_COMMAND = "umbel_cancel"
#: Celery remote-control command that makes a worker finish its calls, accept no others and shut down.
LEAVE_COMMAND = "umbel_leave"
#: Pattern of the pub/sub channels on which endpoints announce new reports.
NEWS_PATTERN = "/ep:*:news"
#: Redis pub/sub channel with the ids of groups that have new results.
WAKE_CHANNEL = "umbel:wake"
#: Redis key that is missing after the broker has lost its data.
EPOCH_KEY = "umbel:epoch"

#: Name of a batch job, and the beginning of the names of its worker nodes.
_BLOCK = re.compile(r"(umbel-[0-9a-f]{8}-[0-9a-f]{8})\.")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")
_ID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_NEWS = re.compile(rf"/ep:({_ID}):news\Z".encode())
_UUID = re.compile(_ID + r"\Z")


def valid_name(text: str) -> bool:
    """Return whether ``text`` is a valid endpoint name: 1 to 63 letters, digits, ``_ . -``, the first one a
    letter or a digit."""
    return bool(_NAME.match(text))


def is_id(text: str) -> bool:
    """Return whether ``text`` is an id of Umbel: a lower-case UUID with dashes."""
    return bool(_UUID.match(text))


def block_of(node: str) -> str | None:
    """Return the block of a worker node (``<block>.<host>``), or None for any other node."""
    found = _BLOCK.match(node)
    return found[1] if found else None


def new_id() -> str:
    """Return a random id (UUID version 4) for a group, function, endpoint, bundle or report."""
    return str(uuid.uuid4())


def new_epoch() -> int:
    """Return a random positive number for an epoch of an endpoint's keys."""
    return int(new_id().replace("-", "")[:12], 16) + 1


def new_task_ids(count: int, seconds: float) -> list[str]:
    """Return ``count`` task ids (UUID version 7) that sort in this order.

    ``seconds``: the time since 1970. Its resolution is a quarter of a microsecond, so that ids of successive
    submissions sort, too (RFC 9562, section 6.2, method 3: increased clock precision). The ids count up from
    one random start, which makes ten thousand of them cheap and not guessable from other submissions (method
    2: monotonic random).
    """
    # 62 random bits (rand_b); the top bit is clear so that counting never overflows
    start = int.from_bytes(os.urandom(8), "big") >> 3
    millis, fraction = divmod(int(seconds * 4_096_000), 4096)
    high = f"{millis & 0xFFFFFFFFFFFF:012x}"
    tail = f"{start | 0x8000000000000000:016x}"
    return following_ids(f"{high[:8]}-{high[8:]}-7{fraction:03x}-{tail[:4]}-{tail[4:]}", count)


def following_ids(first: str, count: int) -> list[str]:
    """Return ``count`` task ids that count up from ``first``, as those of one call of ``new_task_ids`` do."""
    head, start = first[:19], int(first[19:].replace("-", ""), 16)
    ids = []
    for tail in range(start, start + count):
        text = f"{tail:016x}"
        ids.append(f"{head}{text[:4]}-{text[4:]}")
    return ids


def prefix(endpoint_id: str) -> str:
    """Prefix of all Redis keys that an endpoint may use."""
    # ends in ':' because Celery's result backend appends '_' to any other ending
    return f"/ep:{endpoint_id}:"


def queue_key(endpoint_id: str) -> str:
    """Redis key of an endpoint's Celery queue."""
    return prefix(endpoint_id) + QUEUE


def reports_key(endpoint_id: str) -> str:
    """Redis list of an endpoint's reports: its workers push at the head, the collector reads at the tail."""
    return f"{prefix(endpoint_id)}reports"


def news_channel(endpoint_id: str) -> str:
    """Redis pub/sub channel on which an endpoint announces reports (empty messages) and nodes."""
    return f"{prefix(endpoint_id)}news"


def fetched_key(endpoint_id: str, instance: str) -> str:
    """Redis list of the messages that an instance of a node has fetched and not yet noted, newest first."""
    return f"{prefix(endpoint_id)}fetched:{instance}"


def held_key(endpoint_id: str, instance: str) -> str:
    """Redis set of the bundles that an instance of a node has and whose reports are not all applied."""
    return f"{prefix(endpoint_id)}held:{instance}"


def nodes_key(endpoint_id: str) -> str:
    """Redis hash of the endpoint's nodes: instance → signed ``NodeState``."""
    return f"{prefix(endpoint_id)}nodes"


def beats_key(endpoint_id: str) -> str:
    """Redis hash of the endpoint's nodes: instance → ``Beat``."""
    return f"{prefix(endpoint_id)}beats"


def known_key(endpoint_id: str) -> str:
    """Redis set of the instances that are in the ledger; others must not fetch bundles."""
    return f"{prefix(endpoint_id)}known"


def applied_key(endpoint_id: str) -> str:
    """Redis counter of the reports that collectors have taken from the endpoint's list."""
    return f"{prefix(endpoint_id)}applied"


def epoch_key(endpoint_id: str) -> str:
    """Redis key of the epoch of the endpoint's keys, which is lost with them."""
    return f"{prefix(endpoint_id)}epoch"


def sent_key(endpoint_id: str) -> str:
    """Redis set of the bundles that were pushed to the endpoint's queue in this epoch."""
    return f"{prefix(endpoint_id)}sent"


def revoked_key(endpoint_id: str) -> str:
    """Redis set of the bundles that must not be pushed any more."""
    return f"{prefix(endpoint_id)}revoked"


def endpoint_of_news(channel: bytes) -> str | None:
    """Return the endpoint id of a ``news_channel``, or None for any other channel."""
    found = _NEWS.match(channel)
    return found[1].decode() if found else None


def parts_key(endpoint_id: str, report_id: str) -> str:
    """Redis key of a large report, which is written in pieces; the list has a pointer to it."""
    return f"{prefix(endpoint_id)}parts:{report_id}"


def body_key(endpoint_id: str, bundle_id: str) -> str:
    """Redis key of a bundle's body that is not inside its message."""
    return f"{prefix(endpoint_id)}body:{bundle_id}"


def function_key(endpoint_id: str, sha256: str) -> str:
    """Redis key of a serialized function for the endpoint's workers."""
    return f"{prefix(endpoint_id)}fn:{sha256}"


def cancelled_key(endpoint_id: str) -> str:
    """Redis sorted set of task ids cancelled while dispatched (score: seconds since 1970)."""
    return f"{prefix(endpoint_id)}cancelled"


def broker_user(endpoint_id: str) -> str:
    """Redis ACL user of an endpoint."""
    return f"ep-{endpoint_id}"
