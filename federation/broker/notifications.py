"""Waking long polls: one Redis subscription per process, any number of waiting threads."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from umbel.protocol import names

from .client import Broker, BrokerError

log = logging.getLogger(__name__)

#: How long one wait for messages lasts, and so how soon ``stop`` is heard, seconds.
LISTEN = 0.25


class Watch:
    """One waiting thread's place: set as soon as what it watches has news."""

    def __init__(self) -> None:
        self._news = threading.Event()

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for news; return whether there were any, and be ready for the
        next."""
        news = self._news.wait(timeout)
        if news:  # clearing after a time-out could wipe out news that come just now
            self._news.clear()
        return news

    def notify(self) -> None:
        """Wake the thread that waits here."""
        self._news.set()


class Waker:
    """Hears of news in groups and wakes those who watch them.

    A wake-up may be spurious (after a reconnect all are woken), never lost while the broker is up: watch
    first, then look into the ledger, then wait.
    """

    def __init__(self, broker: Broker):
        self._broker = broker
        self._watches: dict[str, set[Watch]] = defaultdict(set)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="waker", daemon=True)
        self._thread.start()

    @contextmanager
    def watch(self, *topics: str) -> Iterator[Watch]:
        """Hear of news in groups, and of what tasks write, for as long as the block lasts; given by id."""
        watch = Watch()
        with self._lock:
            for topic in topics:
                self._watches[topic].add(watch)
        try:
            yield watch
        finally:
            with self._lock:
                for topic in topics:
                    watches = self._watches[topic]
                    watches.discard(watch)
                    if not watches:
                        del self._watches[topic]

    @property
    def stopped(self) -> bool:
        """True once ``stop`` was called: waiting polls shall answer."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Wake everybody for the last time, and let go of the broker before somebody closes it."""
        self._stopped.set()
        self._notify_all()
        self._thread.join(2 * LISTEN)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listen()
            except BrokerError as error:
                log.warning("waker lost the broker, trying again: %s", error)
                self._stopped.wait(0.5)

    def _listen(self) -> None:
        with self._broker.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe(names.WAKE_CHANNEL)
            self._notify_all()  # whatever was said while nobody listened
            while not self._stopped.is_set():
                message = pubsub.get_message(timeout=LISTEN)
                if message is not None:
                    self._notify(message["data"].decode().split(","))

    def _notify(self, groups: list[str]) -> None:
        with self._lock:
            for group in groups:
                for watch in self._watches.get(group, ()):
                    watch.notify()

    def _notify_all(self) -> None:
        with self._lock:
            for watches in self._watches.values():
                for watch in watches:
                    watch.notify()
