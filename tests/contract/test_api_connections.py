"""The embedded web server under clients that send nothing, too much, too slowly, or without a token."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.contract.test_api_serve import MIB, Server
from tests.support.api import Api
from tests.support.played import echo
from tests.support.wait import wait_until
from tests.support.web_server import serving
from umbel.protocol import parcel
from umbel.protocol.errors import TooMany, Unauthorized
from umbel.protocol.messages import Bundle, Call, Outcome
from webapp import connections
from webapp.admission import Bodies, Gate

#: How much memory the server may need more while 100 connections send 11.9 MB each.
BOUND = 350 * MIB
NEARLY_ALL = 11_900_000
GROUP = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
def port(api: Api) -> Iterator[int]:
    with serving(api, connections=200) as port:
        yield port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def head(path: str, size: int, *lines: str) -> bytes:
    more = "".join(f"{line}\r\n" for line in lines)
    return f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n{more}\r\n".encode()


def answer(raw: socket.socket) -> tuple[int, Any]:
    with http.client.HTTPResponse(raw) as response:
        response.begin()
        return response.status, json.loads(response.read())


def is_closed(raw: socket.socket) -> bool:
    """True when the server has closed an idle connection."""
    raw.setblocking(False)
    try:
        return raw.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_a_large_body_without_a_token_is_rejected_before_it_is_sent(port: int) -> None:
    for authorization in ([], ["Authorization: Bearer umb_" + "x" * 43], ["Authorization: Basic eA=="]):
        with connect(port) as raw:
            raw.sendall(head("/v1/tasks", NEARLY_ALL, *authorization))
            status, error = answer(raw)
            assert (status, error["code"]) == (401, "UNAUTHORIZED")


def test_a_client_that_waits_for_continue_gets_it_after_its_token_was_checked(api: Api, port: int) -> None:
    token = f"Authorization: {api.ada.headers['Authorization']}"
    with connect(port) as raw:
        raw.sendall(head("/v1/functions", 20_000, token, "Expect: 100-continue"))
        assert raw.recv(100).startswith(b"HTTP/1.1 100")
        raw.sendall(bytes(20_000))
        assert answer(raw)[0] == 415
    with connect(port) as raw:
        raw.sendall(head("/v1/functions", 20_000, "Expect: 100-continue"))
        assert answer(raw)[0] == 401


def test_who_sends_without_waiting_still_reads_the_error(api: Api, port: int) -> None:
    for size, headers, code in (
        (30 * MIB, api.ada.headers, "PAYLOAD_TOO_LARGE"),
        (30 * MIB, {}, "PAYLOAD_TOO_LARGE"),
        (NEARLY_ALL, {}, "UNAUTHORIZED"),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("POST", "/v1/tasks", bytes(size), headers)
        response = connection.getresponse()
        assert json.loads(response.read())["code"] == code
        connection.close()


def test_a_large_chunked_body_is_read_with_a_token_only(api: Api, port: int) -> None:
    lines = "Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n"
    body = b'{"name": "dock", "body": "eA=="}'
    for headers, expected in ((api.ada.headers, 201), ({}, 401)):
        with connect(port) as raw:
            more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            raw.sendall(f"POST /v1/functions HTTP/1.1\r\nHost: a\r\n{lines}{more}\r\n".encode())
            if expected == 201:
                raw.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
            assert answer(raw)[0] == expected


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_large_submission_arrives_unchanged(
    api: Api, port: int, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    if not in_memory:
        monkeypatch.setattr(Bodies, "keep", lambda self, size: None)
    api.endpoint("lab").beat()
    payload = bytes(range(256)) * 30_000
    record = {"function_id": api.function(), "endpoint_id": "lab"}
    headers = {**api.ada.headers, "Content-Type": parcel.SUBMISSION_TYPE}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for _ in range(3):
        connection.request("POST", "/v1/tasks", parcel.pack(record, [payload]), headers)
        response = connection.getresponse()
        assert response.status == 202, response.read()
        response.read()
    connection.close()
    arrived: list[bytes] = []

    def keep(bundle: Bundle, call: Call, data: bytes) -> Outcome:
        arrived.append(data)
        return echo(bundle, call, b"")

    wait_until(lambda: api._played[0].play(keep) + 1 and len(arrived) == 3, what="the three calls")
    assert arrived == [payload] * 3


def test_a_large_result_arrives_unchanged_also_in_two_parts(api: Api, port: int) -> None:
    api.endpoint("lab").beat()
    payload = bytes(range(256)) * 10_000
    record = {"function_id": api.function(), "endpoint_id": "lab", "group_id": GROUP}
    headers = {**api.ada.headers, "Content-Type": parcel.SUBMISSION_TYPE, "Accept": parcel.RESULTS_TYPE}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def fetch(method: str, path: str, body: bytes | None = None, **more: str) -> tuple[Any, bytes]:
        connection.request(method, path, body, {**headers, **more})
        response = connection.getresponse()
        return response, response.read()

    fetch("POST", "/v1/tasks", parcel.pack(record, [payload, payload[:300_000], payload]))
    results = f"/v1/groups/{GROUP}/results"
    wait_until(
        lambda: api._played[0].play(lambda bundle, call, data: echo(bundle, call, data)) + 1
        and json.loads(fetch("GET", results, Accept="application/json")[1])["live"] == 0,
        what="the results",
    )
    response, whole = fetch("GET", results)
    found = {len(row["result"]): row["result"] for row in parcel.unpack_results(whole)["results"]}
    assert found == {len(payload): payload, 300_000: payload[:300_000]}
    assert int(response.headers["Content-Length"]) == len(whole)
    again = {"Range": "bytes=1000000-", "If-Range": response.headers["ETag"]}
    rest, data = fetch("GET", results, **again)
    assert (rest.status, data) == (206, whole[1_000_000:])
    connection.close()


def test_memory_for_large_bodies_is_limited_and_given_back(api: Api) -> None:
    bodies = Bodies(api.fed, in_memory=10 * MIB)
    first = bodies.keep(6 * MIB)
    assert first is not None and bodies.keep(5 * MIB) is None and bodies.keep(4 * MIB) is not None
    first()
    assert bodies.keep(6 * MIB) is not None


def test_the_budget_of_large_bodies_is_shared(api: Api) -> None:
    bodies = Bodies(api.fed, budget=40 * MIB)
    bob = api.bob.headers["Authorization"]
    ada = api.ada.headers["Authorization"]
    first = bodies.admit(ada, 12 * MIB)
    bodies.admit(ada, 12 * MIB)
    with pytest.raises(TooMany):
        bodies.admit(ada, 1)
    bodies.admit(bob, None)
    with pytest.raises(TooMany):
        bodies.admit(bob, 12 * MIB)
    first()
    bodies.admit(bob, 1)
    with pytest.raises(Unauthorized):
        bodies.admit("Bearer x", 1)


def test_few_large_requests_are_processed_together() -> None:
    class Request:
        resumed = 0

        def resume(self) -> None:
            self.resumed += 1

    gate, waiting = Gate(1), [Request(), Request()]
    assert gate.enter(Request())
    assert not any(gate.enter(request) for request in waiting)
    gate.leave()
    assert [request.resumed for request in waiting] == [1, 0]
    gate.leave()
    gate.leave()
    assert [request.resumed for request in waiting] == [1, 1] and gate.enter(Request())


def test_idle_connections_of_one_address_do_not_shut_others_out(api: Api, port: int) -> None:
    idle = [connect(port) for _ in range(560)]
    before = time.monotonic()
    with connect(port) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer(raw)[0] == 200
    assert time.monotonic() - before < 5
    open_ones = [raw for raw in idle if not is_closed(raw)]
    assert len(open_ones) <= connections.STRANGERS_PER_ADDRESS
    for raw in idle:
        raw.close()


def test_idle_connections_of_a_user_make_room_for_new_ones(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(api, connections=20) as port:
        kept = []
        for _ in range(60):
            raw = connect(port)
            token = f"Authorization: {api.ada.headers['Authorization']}"
            raw.sendall(f"GET /v1/whoami HTTP/1.1\r\nHost: a\r\n{token}\r\n\r\n".encode())
            assert answer(raw)[0] == 200
            kept.append(raw)
        assert len([raw for raw in kept if not is_closed(raw)]) <= 21
        for raw in kept:
            raw.close()


@pytest.mark.parametrize(
    "start", [b"", b"GET /hea", b"POST /v1/tasks HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"]
)
def test_a_stranger_who_sends_no_request_is_disconnected(
    port: int, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STRANGER_TIMEOUT", 0.5)
    with connect(port) as raw:
        raw.sendall(start)
        wait_until(lambda: is_closed(raw), 10, what="the end of the connection")


def test_slow_anonymous_readers_leave_downloads_to_others(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "RATE_WINDOW", 1.0)
    folder = api.fed.settings.home / "packages"
    folder.mkdir(exist_ok=True)
    name = "zoo-2.0-py3-none-any.whl"
    (folder / name).write_bytes(bytes(8 * MIB))
    request = f"GET /packages/zoo/{name} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    with serving(api, connections=200) as port:
        readers = [connect(port) for _ in range(40)]
        for raw in readers:
            raw.sendall(request)
            assert raw.recv(12).startswith(b"HTTP/1.1")

        def answered() -> bool:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", f"/packages/zoo/{name}")
            response = connection.getresponse()
            size = len(response.read())
            connection.close()
            return response.status == 200 and size == 8 * MIB

        wait_until(answered, 15, what="a download beside readers that do not read")
        for raw in readers:
            raw.close()


@pytest.fixture
def server(tmp_path: Path, broker_url: str) -> Iterator[Server]:
    server = Server(tmp_path, broker_url)
    yield server
    server.stop()


@pytest.mark.parametrize("with_token", [False, True])
def test_memory_is_bounded_while_many_send_large_bodies(server: Server, with_token: bool) -> None:
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    token = [f"Authorization: {server.headers['Authorization']}"] if with_token else []
    raws = [connect(server.port) for _ in range(100)]
    piece = bytes(MIB)
    for raw in raws:
        raw.sendall(head("/v1/tasks", 12_000_000, *token, "Content-Type: application/json"))
        raw.settimeout(1)
    peak = 0
    for _ in range(11):
        for raw in raws:
            try:
                raw.sendall(piece)
            except OSError:
                pass
        peak = max(peak, process.memory_info().rss)
    assert peak - before < (BOUND if with_token else 60 * MIB), f"{before / MIB:.0f} to {peak / MIB:.0f} MiB"
    assert server.request("GET", "/v1/whoami")[0] == 200
    for raw in raws:
        raw.close()
