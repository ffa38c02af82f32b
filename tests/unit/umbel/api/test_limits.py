"""Every public time limit is kept, whatever the service does instead of answering."""

from __future__ import annotations

import concurrent.futures
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from umbel import Client, Executor
from umbel.protocol import names
from umbel.protocol.errors import ServiceError

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
    with Client(url, "umb_secret") as client, pytest.raises(ServiceError):
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


def flush(url: str) -> None:
    executor, _ = future_of(url)
    try:
        executor.flush(LIMIT)
    finally:
        end(executor)


def leaving_the_block(url: str) -> None:
    """The calls fail after ``submit_timeout``, and then there is nothing left to wait for."""
    with Executor("lab", client=Client(url, "umb_secret"), submit_timeout=LIMIT) as executor:
        try:
            future = executor.submit(pow, 2, 10)
            executor.shutdown()
            assert future.done()
        finally:
            end(executor)


def shutdown_and_cancel(url: str) -> None:
    executor, _ = future_of(url, submit_timeout=LIMIT)
    try:
        executor.shutdown(cancel_futures=True)
    finally:
        end(executor)


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
    flush,
    leaving_the_block,
    shutdown_and_cancel,
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
        # a failed check is no error of the service
        with suppress(ServiceError, TimeoutError, concurrent.futures.TimeoutError):
            call(service.url)
        assert time.monotonic() - before < LIMIT + MARGIN
    finally:
        service.close()


PROGRAM = """
import sys
from umbel import Client, Executor
executor = Executor("lab", client=Client(sys.argv[1], "umb_secret"), submit_timeout=float(sys.argv[2]))
executor.submit(pow, 2, 10)
"""
COMMAND = "from umbel.cli.main import main; main()"


def program(folder: Path, url: str, *words: str) -> tuple[int, float]:
    """Run a Python program; return its exit status and how long it took, seconds."""
    environ = {**os.environ, "UMBEL_HOME": str(folder), "UMBEL_API_URL": url, "UMBEL_TOKEN": "umb_secret"}
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", *words],
        env={**environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=folder,
        capture_output=True,
        timeout=60,
    )
    return done.returncode, time.monotonic() - before


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds that the command needs to start and end."""
    return program(tmp_path_factory.mktemp("start"), "http://127.0.0.1:9", COMMAND, "--version")[1]


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_program_ends_in_time(behaviour: str, tmp_path: Path, start: float) -> None:
    """What it could not submit is kept, and its exit status says so."""
    service = BadService(behaviour)
    try:
        status, took = program(tmp_path, service.url, PROGRAM, service.url, str(LIMIT))
    finally:
        service.close()
    assert status == 120 and took < start + LIMIT + MARGIN


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("command", ["run", "task"])
def test_a_command_ends_in_time(command: str, behaviour: str, tmp_path: Path, start: float) -> None:
    service = BadService(behaviour)
    words = ["run", "-e", "lab", "math:sqrt", "2"] if command == "run" else ["task", TASK, "--result"]
    try:
        status, took = program(tmp_path, service.url, COMMAND, *words, "--timeout", str(LIMIT))
    finally:
        service.close()
    assert took < start + LIMIT + MARGIN
    assert status in (3, 5, 6, 120), "not the wrong usage of a command, nor an unexpected error"
