"""How the service knows a node: its signed description, its beats, and what it holds, as keys in the broker.

The description and what the node holds are written together when the node starts and after each loss of the
endpoint's keys. A beat is written only while they are there: otherwise the service would believe that the
node holds nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any, NamedTuple, Protocol

import redis
from redis.exceptions import NoPermissionError, WatchError

from umbel.protocol import limits, names
from umbel.protocol.envelope import Signer
from umbel.protocol.node_state import NODE_NEWS, Beat, NodeState
from umbel.system.clock import steady

from ..broker.clock import BrokerClock
from ..broker.fetches import Fetches

log = logging.getLogger(__name__)

#: Seconds between two questions whether the service knows this instance: the first one, and the longest.
FIRST_QUESTION, LONGEST_QUESTION = 0.05, 1.0
#: A node that the service has not confirmed for this long (seconds) logs it, each time.
UNKNOWN_AFTER = 60.0
#: A beat that collides with the description of another node is tried again: so often, and then after seconds.
TRIES, RETRY = 5, 0.5


class KeysLost(Exception):
    """The endpoint's keys in the broker were lost; everything about this node must be written again."""


class Origin(NamedTuple):
    """The sender of reports: the endpoint, the node, the instance of the node, and its incarnation."""

    endpoint: str
    node: str
    instance: str
    incarnation: int = 0


class Load(NamedTuple):
    """What changes all the time: slots in use, waiting calls, load of the machine, seconds of its clock."""

    busy: int = 0
    queue: int = 0
    load: float = 0.0
    clock_ahead: float = 0.0


class View(Protocol):
    """What the outbox's thread asks of its node."""

    def held(self) -> Collection[str]:
        """Ids of bundles with calls whose outcomes are not all in the ledger."""

    def describe(self) -> tuple[int, dict[str, Any]]:
        """Return the number of slots, and facts for people."""

    def load(self) -> Load:
        """Return the load of the node."""

    def give_back(self, message: bytes) -> None:
        """Report the calls of a message that was fetched and will not be received as returned."""


class Presence:
    """Writes the keys of one node. All methods raise BROKER_ERRORS, and those of a beat ``KeysLost``."""

    def __init__(
        self, origin: Origin, signer: Signer, client: redis.Redis, clock: BrokerClock, fetches: Fetches
    ):
        self._origin, self._signer, self._client, self._clock = origin, signer, client, clock
        self._fetches = fetches
        endpoint, self._instance = origin.endpoint, origin.instance
        self._nodes, self._beats = names.nodes_key(endpoint), names.beats_key(endpoint)
        self._held = names.held_key(endpoint, self._instance)
        self._known, self._news = names.known_key(endpoint), names.news_channel(endpoint)
        self.announced = False
        self._described: tuple[int, dict[str, Any]] | None = None
        self._changed = False
        self._version = self._number = 0
        self._is_known = False
        self._next_beat = 0.0
        self._pause, self._next_question = FIRST_QUESTION, 0.0
        self._unknown_since = time.monotonic()

    @property
    def due(self) -> float:
        """When ``poll`` has something to do (monotonic clock)."""
        return self._next_beat if self._is_known else min(self._next_beat, self._next_question)

    def beat_soon(self) -> None:
        """Write the next beat without delay."""
        self._next_beat = 0.0

    def lost(self) -> None:
        """Announce again, as a new version: the keys were lost, or the service considered the node dead.

        Nothing is fetched before the service has confirmed again that it knows the instance.
        """
        self._fetches.forbid()
        self.announced = self._is_known = False
        self._described = None
        self._pause, self._next_question = FIRST_QUESTION, 0.0
        self._unknown_since = time.monotonic()

    def announce(self, view: View, held: Collection[str]) -> None:
        """Write the description and what the node holds, in one transaction."""
        self._refresh(view)
        pipe: Any = self._client.pipeline()
        if held:
            pipe.sadd(self._held, *held)
        pipe.hset(self._nodes, self._instance, self._frame())
        pipe.hset(self._beats, self._instance, self._beat(view))
        pipe.publish(self._news, NODE_NEWS).execute()
        self.announced, self._changed = True, False
        self._next_beat = time.monotonic() + limits.HEARTBEAT_INTERVAL

    def poll(self, view: View) -> bool:
        """Do what is due; return whether a beat was written."""
        now = time.monotonic()
        if not self._is_known and now >= self._next_question:
            self._ask(now)
        if now < self._next_beat:
            return False
        self._write_beat(view)
        return True

    def goodbye(self, report: bytes) -> None:
        """Push the report that the node shuts down, and remove its keys, in one transaction."""
        pipe: Any = self._client.pipeline()
        pipe.lpush(names.reports_key(self._origin.endpoint), report)
        pipe.hdel(self._nodes, self._instance).hdel(self._beats, self._instance)
        pipe.delete(self._held, self._fetches.target).publish(self._news, b"").execute()

    def _ask(self, now: float) -> None:
        self._next_question = now + self._pause
        self._pause = min(LONGEST_QUESTION, 1.5 * self._pause)
        try:
            known = bool(self._client.sismember(self._known, self._instance))
        except NoPermissionError:
            # by a service of an earlier version, which confirms no nodes
            known = False
        if known:
            self._is_known = True
            self._fetches.allow()
        elif now - self._unknown_since >= UNKNOWN_AFTER:
            self._unknown_since = now
            log.warning(
                "the service has not confirmed this node for %.0f s, and no bundle is fetched until it does: "
                "check that its sweeper runs, and that both have the same version",
                UNKNOWN_AFTER,
            )

    def _write_beat(self, view: View) -> None:
        self._refresh(view)
        for _ in range(TRIES):
            began = steady()
            if self._beat_written(self._beat(view)):
                self._fetches.renew(began)
                self._next_beat = time.monotonic() + limits.HEARTBEAT_INTERVAL
                return
        self._next_beat = time.monotonic() + RETRY

    def _beat_written(self, beat: bytes) -> bool:
        """Write a beat, and a new description, if the keys are there; return False if another node wrote."""
        pipe: Any
        with self._client.pipeline() as pipe:
            # a loss of keys between the look and the beat changes this key, too
            pipe.watch(self._nodes)
            if pipe.hget(self._beats, self._instance) is None:
                raise KeysLost
            pipe.multi()
            pipe.hset(self._beats, self._instance, beat)
            if self._changed:
                pipe.hset(self._nodes, self._instance, self._frame()).publish(self._news, NODE_NEWS)
            try:
                created, *_ = pipe.execute()
            except WatchError:
                return False
        if created:
            raise KeysLost
        self._changed = False
        return True

    def _refresh(self, view: View) -> None:
        described = view.describe()
        if described != self._described:
            self._described = described
            self._version += 1
            self._changed = True

    def _frame(self) -> bytes:
        assert self._described is not None
        slots, facts = self._described
        endpoint, node, instance, incarnation = self._origin
        state = NodeState(endpoint, node, instance, incarnation, self._version, slots, facts)
        return state.seal(self._signer, self._clock.now())

    def _beat(self, view: View) -> bytes:
        self._number += 1
        return Beat(self._version, self._number, *view.load()).write()
