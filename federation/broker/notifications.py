"""Notifications for long polls: one Redis subscription per process, any number of waiting threads."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from umbel.protocol import names

from .client import Broker, BrokerError

log = logging.getLogger(__name__)

#: Timeout of one wait for messages, and the longest delay before ``stop`` takes effect, seconds.
LISTEN_TIMEOUT = 0.25


class Subscription:
    """The subscription of one waiting thread; set as soon as one of its topics changes."""

    def __init__(self) -> None:
        self._changed = threading.Event()

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for a change; return whether there was one, and reset."""
        changed = self._changed.wait(timeout)
        if changed:  # clearing after a timeout could discard a change that arrives in between
            self._changed.clear()
        return changed

    def notify(self) -> None:
        """Wake the waiting thread."""
        self._changed.set()


class Notifier:
    """Receives change notifications and wakes the threads that subscribe to the topic.

    A wake-up may be spurious (a reconnect wakes all threads) but is never lost while the broker is up:
    subscribe first, then read the ledger, then wait.
    """

    def __init__(self, broker: Broker):
        self._broker = broker
        self._subscriptions: dict[str, set[Subscription]] = defaultdict(set)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
        self._thread.start()

    @contextmanager
    def subscribe(self, *topics: str) -> Iterator[Subscription]:
        """Subscribe to groups and to output of tasks, by id, for the duration of the block."""
        subscription = Subscription()
        with self._lock:
            for topic in topics:
                self._subscriptions[topic].add(subscription)
        try:
            yield subscription
        finally:
            with self._lock:
                for topic in topics:
                    subscriptions = self._subscriptions[topic]
                    subscriptions.discard(subscription)
                    if not subscriptions:
                        del self._subscriptions[topic]

    @property
    def stopped(self) -> bool:
        """True once ``stop`` was called; waiting polls must return."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Wake all threads a last time and release the broker connection, before the broker is closed."""
        self._stopped.set()
        self._notify_all()
        self._thread.join(2 * LISTEN_TIMEOUT)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listen()
            except BrokerError as error:
                log.warning("notifier: broker connection lost, reconnecting: %s", error)
                self._stopped.wait(0.5)

    def _listen(self) -> None:
        with self._broker.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe(names.WAKE_CHANNEL)
            self._notify_all()  # changes may have been missed while disconnected
            while not self._stopped.is_set():
                message = pubsub.get_message(timeout=LISTEN_TIMEOUT)
                if message is not None:
                    self._notify(message["data"].decode().split(","))

    def _notify(self, groups: list[str]) -> None:
        with self._lock:
            for group in groups:
                for subscription in self._subscriptions.get(group, ()):
                    subscription.notify()

    def _notify_all(self) -> None:
        with self._lock:
            for subscriptions in self._subscriptions.values():
                for subscription in subscriptions:
                    subscription.notify()
