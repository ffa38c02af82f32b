"""Notifications for long polls: one Redis subscription per process, any number of waiting polls."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from types import TracebackType

from umbel.protocol import names
from umbel.system.threads import GuardedThread

from .client import Broker, BrokerError

log = logging.getLogger(__name__)

#: Timeout of one wait for messages, and the longest delay before ``stop`` takes effect, seconds.
LISTEN_TIMEOUT = 0.25


class Subscription:
    """The subscription of one waiting poll; set as soon as one of its topics changes.

    Close it, or use it in a ``with`` block.
    """

    def __init__(self, notifier: Notifier, topics: Sequence[str]):
        self.topics = topics
        self._notifier = notifier
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._callback: Callable[[], object] | None = None

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unsubscribe; a second time it has no effect."""
        self._notifier.unsubscribe(self)

    def clear(self) -> None:
        """Forget the changes so far; call it before reading the ledger."""
        self._changed.clear()

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for a change since ``clear``; return whether there was one."""
        return self._changed.wait(timeout)

    def call_once(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` at the next change, in the notifier's thread; at once if there was one."""
        with self._lock:
            if not self._changed.is_set():
                self._callback = callback
                return
        callback()

    def notify(self) -> None:
        """Record a change and wake the poll."""
        with self._lock:
            self._changed.set()
            callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Notifier:
    """Receives change notifications and wakes the polls that subscribe to the topic.

    A wake-up may be spurious (a reconnect wakes all polls) but is never lost while the broker is up:
    subscribe first, then read the ledger, then wait.
    """

    def __init__(self, broker: Broker):
        self._broker = broker
        self._subscriptions: dict[str, set[Subscription]] = defaultdict(set)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = GuardedThread(self._run, name="notifier", stop=self._stopped)
        self._thread.start()

    def subscribe(self, *topics: str) -> Subscription:
        """Subscribe to groups and to output of tasks, by id."""
        subscription = Subscription(self, topics)
        with self._lock:
            for topic in topics:
                self._subscriptions[topic].add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a subscription."""
        with self._lock:
            for topic in subscription.topics:
                subscriptions = self._subscriptions.get(topic)
                if subscriptions is not None:
                    subscriptions.discard(subscription)
                    if not subscriptions:
                        del self._subscriptions[topic]

    @property
    def stopped(self) -> bool:
        """True once ``stop`` was called; waiting polls must return."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Wake all polls a last time and release the broker connection, before the broker is closed."""
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
        # the client reconnects without an error; it then subscribes again, which the broker confirms
        with self._broker.redis.pubsub(ignore_subscribe_messages=False) as pubsub:
            pubsub.subscribe(names.WAKE_CHANNEL)
            while not self._stopped.is_set():
                message = pubsub.get_message(timeout=LISTEN_TIMEOUT)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self._notify_all()  # changes may have been missed before
                elif message["type"] == "message":
                    self._notify(message["data"].decode().split(","))

    def _notify(self, topics: Sequence[str]) -> None:
        with self._lock:
            found = {each for topic in topics for each in self._subscriptions.get(topic, ())}
        for subscription in found:
            subscription.notify()

    def _notify_all(self) -> None:
        with self._lock:
            topics = list(self._subscriptions)
        self._notify(topics)
