"""Every public time limit is kept, whatever the service does instead of answering."""

from __future__ import annotations

import concurrent.futures
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from umbel import Client, Executor
from umbel.protocol import names

#: The limit of each call, and how much longer it may take on a busy machine, seconds.
LIMIT, MARGIN = 1.0, 2.5
TASK = names.new_id()


class BadService:
    """Accepts connections and does one wrong thing to every request."""

    def __init__(self, behaviour: str):
        self.behaviour = behaviour
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(0.1)
            while not self._stop.is_set():
                with suppress(TimeoutError):
                    if not connection.recv(65536):
                        return
                    if not self._answer(connection):
                        return

    def _answer(self, connection: socket.socket) -> bool:
        if self.behaviour in ("429", "503"):
            body = b'{"code": "QUEUE_FULL", "message": "full"}' if self.behaviour == "429" else b"{}"
            head = f"HTTP/1.1 {self.behaviour} X\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
        elif self.behaviour == "trickle":
            for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000:
                if self._stop.wait(0.05):
                    break
                connection.sendall(bytes([byte]))
        return self.behaviour != "cut"

    def close(self) -> None:
        self._stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)


def future_of(
    url: str, *, submit_timeout: float | None = None
) -> tuple[Executor, concurrent.futures.Future[int]]:
    client = Client(url, "umb_secret")
    executor = Executor("lab", client=client, submit_timeout=submit_timeout)
    return executor, executor.submit(pow, 2, 10)


def result(url: str) -> None:
    executor, future = future_of(url)
    try:
        future.result(LIMIT)
    finally:
        end(executor)


def waiting(url: str) -> None:
    executor, future = future_of(url)
    try:
        done, _ = concurrent.futures.wait([future], LIMIT)
        assert not done
    finally:
        end(executor)


def submit_timeout(url: str) -> None:
    executor, future = future_of(url, submit_timeout=LIMIT)
    try:
        future.result(20)
    finally:
        end(executor)


def mapping(url: str) -> None:
    executor, _ = future_of(url)
    try:
        list(executor.map(abs, [1], timeout=LIMIT))
    finally:
        end(executor)


def get_result(url: str) -> None:
    with Client(url, "umb_secret") as client:
        client.get_result(TASK, timeout=LIMIT)


def stream(url: str) -> None:
    with Client(url, "umb_secret") as client:
        list(client.stream(TASK, timeout=LIMIT))


def request_with_patience(url: str) -> None:
    with Client(url, "umb_secret") as client:
        client.get_task(TASK, LIMIT)


def cancel_with_patience(url: str) -> None:
    with Client(url, "umb_secret") as client:
        client.cancel_task(TASK, LIMIT)


def client_patience(url: str) -> None:
    with Client(url, "umb_secret", patience=LIMIT) as client:
        client.whoami()


@pytest.mark.parametrize("behaviour", ["silence", "429"])
def test_calls_behind_others_do_not_wait_for_their_limits_too(behaviour: str) -> None:
    service = BadService(behaviour)
    executor = Executor("lab", client=Client(service.url, "umb_secret"), submit_timeout=LIMIT)
    try:
        futures = [executor.submit(pow, 2, number) for number in range(5000)]  # four submissions
        _, late = concurrent.futures.wait(futures, LIMIT + MARGIN)
        assert not late
        code = "QUEUE_FULL" if behaviour == "429" else "UNAVAILABLE"
        assert {getattr(future.exception(), "code", None) for future in futures} == {code}
    finally:
        end(executor)
        service.close()


def end(executor: Executor) -> None:
    """Stop the executor's threads, whatever they wait for."""
    executor._session.client.close()
    executor.shutdown(wait=False, cancel_futures=True)
    executor._session.release(1.0)


CALLS = [
    submit_timeout,
    result,
    waiting,
    mapping,
    get_result,
    stream,
    request_with_patience,
    cancel_with_patience,
    client_patience,
]


#: What the service does instead of answering.
BEHAVIOURS = ["silence", "429", "503", "cut", "trickle"]
#: A service that sends is not silent, and `patience` limits silence.
CASES = [(b, c) for b in BEHAVIOURS for c in CALLS if (b, c) != ("trickle", client_patience)]


@pytest.mark.parametrize(("behaviour", "call"), CASES, ids=lambda each: getattr(each, "__name__", each))
def test_a_time_limit_is_kept(behaviour: str, call: Callable[[str], None]) -> None:
    service = BadService(behaviour)
    try:
        before = time.monotonic()
        with suppress(Exception):
            call(service.url)
        assert time.monotonic() - before < LIMIT + MARGIN
    finally:
        service.close()
