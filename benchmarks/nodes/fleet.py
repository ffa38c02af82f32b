"""The loop of many simulated nodes: fetches in turn, ends of calls, and steps of outboxes, in one thread."""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import redis

from endpoint_worker.broker.client import BROKER_ERRORS
from endpoint_worker.broker.fetches import FETCH_SECONDS, Fetch
from umbel.protocol.limits import HEARTBEAT_INTERVAL

from .node import Shared, SimulatedNode

log = logging.getLogger(__name__)

#: Messages that are fetched in one transaction after one has arrived, in which BLMOVE does not wait.
BATCH = 32
#: Longest time spent on steps and on ends of calls before messages are looked for, seconds. Beats and reports
#: that are later than this come first.
TURN_SECONDS = 0.2
#: Pause after a failed connection, seconds.
RECONNECT_SECONDS = 0.5
#: Longest time that ``turn`` waits, seconds.
LONGEST_WAIT = 0.5


class Fleet:
    """``count`` nodes. ``fetching``: a client of its own, whose one connection waits for messages."""

    def __init__(self, make: Callable[[Any], Shared], count: int, fetching: redis.Redis):
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._steps: list[tuple[float, int, SimulatedNode]] = []
        #: when each node's next step is due; entries of the heap with another time are obsolete
        self._due: dict[SimulatedNode, float] = {}
        self._order = itertools.count()
        self._fetching = fetching
        self._blocked: tuple[Any, SimulatedNode, Fetch] | None = None
        self._resume = 0.0
        self.shared = make(self.later)
        self.nodes = [SimulatedNode(self.shared, number, self.touch) for number in range(count)]
        self._turns = deque(self.nodes)
        now = time.monotonic()
        for number, node in enumerate(self.nodes):
            # beats spread over their interval; a few nodes start at once
            self._plan(node, now + HEARTBEAT_INTERVAL * number / max(count, 64))

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Call ``act`` after so many seconds."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), act))

    def turn(self) -> None:
        """Do what is due; wait for a message until something else is due."""
        until = time.monotonic() + TURN_SECONDS
        while self._timers and self._timers[0][0] <= time.monotonic() < until:
            heapq.heappop(self._timers)[2]()
        until = time.monotonic() + TURN_SECONDS
        while self._steps and self._steps[0][0] <= time.monotonic():
            if time.monotonic() >= until:
                return
            self._step()
        self._fetch()

    def statistics(self) -> dict[str, Any]:
        """Return counts for the program that has started the nodes.

        ``known``: nodes that the service has confirmed; ``executed``: different calls that have started;
        ``again``: further starts of these; ``busy``: slots in use.
        """
        loads = [node.load() for node in self.nodes]
        executed = self.shared.executed
        return {
            "known": sum(node.fetches.allowed for node in self.nodes),
            "executed": executed.calls,
            "again": executed.again,
            "bundles": executed.bundles,
            "busy": sum(load.busy for load in loads),
            "waiting": sum(load.queue for load in loads),
        }

    def close(self) -> None:
        """Close the connection that waits."""
        if self._blocked is not None:
            self._lost()

    def touch(self, node: SimulatedNode) -> None:
        """Make a step of this node soon."""
        self._plan(node, 0.0)

    def _plan(self, node: SimulatedNode, due: float) -> None:
        if self._due.get(node) != due:
            self._due[node] = due
            heapq.heappush(self._steps, (due, next(self._order), node))

    def _step(self) -> None:
        due, _, node = heapq.heappop(self._steps)
        if self._due.get(node) != due:
            return
        del self._due[node]
        pause = node.outbox.step()
        # something may have been added during the step
        if node not in self._due:
            self._plan(node, time.monotonic() + pause)

    def _wait_seconds(self) -> float:
        due = min((heap[0][0] for heap in (self._timers, self._steps) if heap), default=0.0)
        return min(LONGEST_WAIT, max(0.0, due - time.monotonic()))

    def _fetch(self) -> None:
        """Wait for one message; if there is one, take others for the next nodes."""
        if time.monotonic() < self._resume or not (self._blocked or self._begin()):
            time.sleep(min(0.05, self._wait_seconds()))
            return
        try:
            assert self._blocked is not None
            connection, node, fetch = self._blocked
            if not connection.can_read(timeout=self._wait_seconds()):
                return
            message = connection.read_response()
            self._blocked = None
            self._deliver(node, fetch, message)
            self._fetching.connection_pool.release(connection)
            if message is not None:
                self._fetch_batch()
        except BROKER_ERRORS as error:
            log.warning("fetching failed: %s", error)
            self._lost()

    def _begin(self) -> bool:
        """Send the command that waits for a message for the next node; return False if none takes any."""
        chosen = self._takers(1)
        if not chosen:
            return False
        (node,) = chosen
        try:
            connection = self._fetching.connection_pool.get_connection()
            fetch = node.fetches.begin()
            self._blocked = connection, node, fetch
            connection.send_command(
                "BLMOVE", node.fetches.source, node.fetches.target, "RIGHT", "LEFT", FETCH_SECONDS
            )
            return True
        except BROKER_ERRORS as error:
            log.warning("fetching failed: %s", error)
            self._lost()
            return False

    def _fetch_batch(self) -> None:
        """Fetch messages without waiting, one for each of the next nodes."""
        chosen = self._takers(BATCH)
        pipe: Any = self._fetching.pipeline()
        fetches = [node.fetches.begin() for node in chosen]
        try:
            for node in chosen:
                source, target = node.fetches.source, node.fetches.target
                pipe.execute_command("BLMOVE", source, target, "RIGHT", "LEFT", FETCH_SECONDS)
            messages = pipe.execute()
        except BROKER_ERRORS:
            for fetch in fetches:
                fetch.end()
            raise
        for node, fetch, message in zip(chosen, fetches, messages):
            self._deliver(node, fetch, message)

    def _takers(self, count: int) -> list[SimulatedNode]:
        """Return the next nodes in turn that take a message, at most ``count``."""
        found: list[SimulatedNode] = []
        for _ in range(len(self._turns)):
            node = self._turns[0]
            self._turns.rotate(-1)
            if node.takes:
                found.append(node)
                if len(found) == count:
                    break
        return found

    def _deliver(self, node: SimulatedNode, fetch: Fetch, message: bytes | None) -> None:
        if message is not None:
            raw = message
            node.fetches.deliver(fetch, raw, lambda: node.receive(raw))
            self.touch(node)
        fetch.end()

    def _lost(self) -> None:
        """Give up the connection that waits."""
        if self._blocked is not None:
            connection, _, fetch = self._blocked
            self._blocked = None
            fetch.end()
            connection.disconnect()
            self._fetching.connection_pool.release(connection)
        self._resume = time.monotonic() + RECONNECT_SECONDS
