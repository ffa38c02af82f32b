"""Events of endpoints, checked before Flower uses them.

An endpoint's account can publish anything under its own prefix. Invalid messages are dropped one by one, and
of events only known fields of the expected type and size are passed on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from queue import Empty
from typing import Any

from kombu.transport import redis as kombu_redis

log = logging.getLogger(__name__)

#: Types of events that workers send.
TYPES = frozenset(
    "task-received task-started task-succeeded task-failed task-rejected task-revoked task-retried "
    "worker-online worker-heartbeat worker-offline".split()
)
#: Maximum length of identifying names and of other strings, characters; maximum absolute value of a number.
NAME_LENGTH, STRING_LENGTH, MAX_NUMBER = 300, 10_000, 2.0**53
#: Maximum number of different workers and functions that are displayed in one run of Flower.
MAX_NAMES = 20_000

_REQUIRED_NUMBERS = ("timestamp", "local_received", "clock")
_NUMBERS = frozenset("pid freq active processed retries runtime utcoffset".split())
_STRINGS = frozenset(
    "args kwargs eta expires result exception traceback exchange routing_key queue root_id parent_id "
    "sw_ident sw_ver sw_sys".split()
)
_FLAGS = frozenset(("terminated", "expired"))


class Channel(kombu_redis.Channel):
    """A channel that drops a message that cannot be processed, and continues with the next."""

    def _receive_one(self, c: Any) -> Any:
        try:
            return super()._receive_one(c)
        except (Empty, *self.connection_errors):
            raise
        except Exception as error:  # whatever the content of a message causes in kombu and Celery
            log.debug("an invalid event is dropped: %r", error)
            raise Empty() from None


class Transport(kombu_redis.Transport):
    """Redis with such channels."""

    Channel = Channel


class EventFilter:
    """Passes valid events on to ``receive``."""

    def __init__(self, receive: Callable[[dict[str, Any]], None]):
        self._receive = receive
        self._workers: set[str] = set()
        self._functions: set[str] = set()

    def __call__(self, event: Any) -> None:
        """Pass on an event, or drop it."""
        cleaned = clean(event)
        if cleaned is None or not _known(self._workers, cleaned["hostname"]):
            return
        if "name" in cleaned and not _known(self._functions, cleaned["name"]):
            cleaned["name"] = "(other)"
        self._receive(cleaned)


def clean(event: Any) -> dict[str, Any] | None:
    """Return the valid part of an event, or None if the event is invalid."""
    if not isinstance(event, dict) or not _is_name(event.get("type")) or event["type"] not in TYPES:
        return None
    identity = ["hostname", "uuid"] if event["type"].startswith("task-") else ["hostname"]
    if not all(_is_name(event.get(name)) for name in identity):
        return None
    if not all(_is_number(event.get(name)) for name in _REQUIRED_NUMBERS):
        return None
    found = {name: event[name] for name in ("type", *identity, *_REQUIRED_NUMBERS)}
    if _is_name(event.get("name")):
        found["name"] = event["name"]
    for name, value in event.items():
        if name in _NUMBERS and _is_number(value) or name in _FLAGS and isinstance(value, bool):
            found[name] = value
        elif name in _STRINGS and isinstance(value, str):
            found[name] = value[:STRING_LENGTH]
    load = event.get("loadavg")
    if isinstance(load, list) and len(load) <= 3 and all(map(_is_number, load)):
        found["loadavg"] = load
    return found


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME_LENGTH and value.isprintable()


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= MAX_NUMBER and not (isinstance(value, float) and math.isnan(value))


def _known(names: set[str], name: str) -> bool:
    """Return whether a name is known or can still be added."""
    if name not in names and len(names) >= MAX_NAMES:
        return False
    names.add(name)
    return True
