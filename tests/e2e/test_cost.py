"""What a map of ten thousand calls costs in requests and Celery messages, over the whole journey."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.embedded import Embedded
from umbel.api.transport import HttpTransport
from umbel.protocol import names

FEW, MANY = 1_000, 10_000


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("cost"), workers=2) as embedded:
        yield embedded


def _nothing(x: int) -> int:
    return x


@contextmanager
def _requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The paths that the SDK asks for meanwhile."""
    asked: list[str] = []
    send = HttpTransport._try

    def counted(self: HttpTransport, attempt: Any) -> Any:
        asked.append(f"{attempt.request.method} {attempt.request.path}")
        return send(self, attempt)

    with monkeypatch.context() as patch:
        patch.setattr(HttpTransport, "_try", counted)
        yield asked


class _Monitor(threading.Thread):
    """Counts the messages and reports that pass through the broker."""

    def __init__(self, url: str):
        super().__init__(daemon=True)
        self._client = redis.Redis.from_url(url)
        self.ready = threading.Event()
        self.messages = self.reports = 0
        self.ended = threading.Event()

    def run(self) -> None:
        with self._client.monitor() as monitor:
            self.ready.set()
            for command in monitor.listen():
                words = command["command"].split(" ", 2)
                if words[0].upper() == "LPUSH":
                    self.messages += words[1].endswith(":" + names.QUEUE)
                    self.reports += words[1].endswith(":reports")
                elif words[0].upper() == "ECHO":
                    self.ended.set()
                    return

    def end(self) -> None:
        """Stop counting."""
        self._client.execute_command("ECHO", "end")
        assert self.ended.wait(20)
        self._client.close()


def _cost(umbel: Embedded, count: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    """Requests, messages and reports of one map."""
    monitor = _Monitor((Path(umbel.home) / "redis" / "service.url").read_text().strip())
    monitor.start()
    assert monitor.ready.wait(20)
    with umbel.executor() as executor, _requests(monkeypatch) as asked:
        assert list(executor.map(_nothing, range(count), timeout=120)) == list(range(count))
    monitor.end()
    return len(asked), monitor.messages, monitor.reports


def test_requests_and_messages_do_not_grow_with_the_calls(
    umbel: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    _cost(umbel, FEW, monkeypatch)  # how long the function runs is known from here on
    few = _cost(umbel, FEW, monkeypatch)
    many = _cost(umbel, MANY, monkeypatch)
    for name, small, large in zip(("requests", "messages", "reports"), few, many):
        # ten times the calls: a few requests and bundles more, nowhere near ten per hundred calls
        assert 0 < small <= FEW / 10, (name, few)
        assert large <= MANY / 50, (name, many)
