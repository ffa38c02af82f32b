"""Large bodies in parts, and large answers from where they were cut; with the SDK over bad connections."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from federation.registry import uploads
from federation.registry.uploads import Uploads
from federation.registry.users import User
from tests.support.api import Api, b64
from tests.support.chaos_proxy import ChaosProxy
from tests.support.played import echo
from tests.support.web_server import serving
from umbel import Client
from umbel.api import connections as client_connections
from umbel.protocol import names
from umbel.protocol.errors import Conflict, NotFound, TooLarge
from umbel.protocol.messages import Bundle, Call, Outcome

KIB = 1024
ADA, BOB = User(1, "a", "ada"), User(2, "b", "bob")


@pytest.fixture
def proxy(api: Api) -> Iterator[ChaosProxy]:
    with serving(api) as port, ChaosProxy(("127.0.0.1", port)) as proxy:
        yield proxy


@pytest.fixture
def client(api: Api, proxy: ChaosProxy) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{proxy.port}", api.token, patience=5) as client:
        client.whoami()
        yield client


def arrived(api: Api) -> list[bytes]:
    """The arguments of all calls that lie in the endpoint's queue."""
    found: list[bytes] = []

    def keep(bundle: Bundle, call: Call, data: bytes) -> Outcome:
        found.append(data)
        return echo(bundle, call, b"")

    while api._played[0].play(keep):
        pass
    return found


def test_a_body_in_parts_is_used_once_it_is_complete(api: Api) -> None:
    body = b'{"name": "dock", "body": "' + b64(b"x" * 1000).encode() + b'"}'
    upload = names.new_id()
    headers = {"Umbel-Upload": upload, "Umbel-Upload-SHA256": hashlib.sha256(body).hexdigest()}

    def register() -> Any:
        return api.ada("POST", "/v1/functions", b"", headers=headers)

    assert (register().status_code, register().json["code"]) == (404, "UPLOAD_NOT_FOUND")
    path = f"/v1/uploads/{upload}"
    assert api.ada("PUT", path, body[:500]).json == {"id": upload, "size": 500}
    assert register().status_code == 404
    answer = api.ada("PUT", f"{path}?offset=501", body[501:])
    assert (answer.status_code, answer.json["details"]) == (409, {"size": 500})
    for _ in range(2):  # the answer of the first try was lost
        assert api.ada("PUT", f"{path}?offset=500", body[500:]).json["size"] == len(body)
    assert register().status_code == 201
    assert register().status_code == 200
    assert api.bob("POST", "/v1/functions", b"", headers=headers).status_code == 404
    assert api.ada("POST", "/v1/functions", b"{}", headers=headers).status_code == 400
    assert api.anybody("PUT", path, b"x").status_code == 401
    assert api.ada("PUT", "/v1/uploads/..%2Fx", b"x").status_code == 404


def test_uploads_are_bounded_and_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "USER_BYTES", 1000)
    store = Uploads(tmp_path / "uploads")
    ids = [names.new_id() for _ in range(4)]
    for number, upload in enumerate(ids):
        assert store.put(ADA, upload, 0, bytes(400)) == 400
        os.utime(tmp_path / "uploads" / "1" / upload, (time.time() - 100 + number,) * 2)
    left = sorted(path.name for path in (tmp_path / "uploads" / "1").iterdir())
    assert left == sorted(ids[2:])
    with pytest.raises(NotFound):
        store.read(ADA, ids[0], hashlib.sha256(bytes(400)).hexdigest())
    with pytest.raises(Conflict):
        store.put(BOB, ids[3], 400, b"x")
    with pytest.raises(TooLarge):
        store.put(ADA, ids[3], 12 * KIB * KIB, b"x")
    monkeypatch.setattr(uploads, "LIFETIME", 50.0)
    monkeypatch.setattr(uploads, "SWEEP_INTERVAL", 0.0)
    store.put(BOB, ids[0], 0, b"x")
    assert not list((tmp_path / "uploads" / "1").iterdir())


def test_a_slow_uplink_submits_a_large_call(
    api: Api, proxy: ChaosProxy, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time limits are shorter than the transfer: what they limit is silence."""
    monkeypatch.setattr(client_connections, "CONNECT_TIMEOUT", 1.0)
    api.endpoint("lab").beat()
    function = api.function()
    proxy.up.rate = 1_500_000
    payload = os.urandom(9_000_000)
    before = time.monotonic()
    client.submit(function, "lab", [payload])
    assert time.monotonic() - before > 5.0
    assert arrived(api) == [payload]
    assert proxy.up.passed < 1.1 * len(payload), "the body was sent more than once"


def test_an_upload_that_is_cut_again_and_again_arrives_once(
    api: Api, proxy: ChaosProxy, client: Client
) -> None:
    api.endpoint("lab").beat()
    function = api.function()
    payload = os.urandom(4_000_000)
    proxy.up.cut_after = 900_000
    before = proxy.up.passed
    answer = client.submit(function, "lab", [payload])
    assert len(answer["task_ids"]) == 1
    assert arrived(api) == [payload]
    assert proxy.up.passed - before < 2 * len(payload)


def test_an_upload_over_a_line_that_goes_away_continues(api: Api, proxy: ChaosProxy, client: Client) -> None:
    """The patience begins anew with each progress."""
    api.endpoint("lab").beat()
    function = api.function()
    payload = os.urandom(3_000_000)
    proxy.up.rate = 1_000_000
    stop = threading.Event()

    def trouble() -> None:
        while not stop.wait(1.0):
            proxy.cut()

    thread = threading.Thread(target=trouble, daemon=True)
    thread.start()
    try:
        client.submit(function, "lab", [payload])
    finally:
        stop.set()
        thread.join()
    assert arrived(api) == [payload]


def test_a_large_result_over_a_line_that_is_cut_is_read_to_its_end(
    api: Api, proxy: ChaosProxy, client: Client
) -> None:
    api.endpoint("lab").beat()
    payload = os.urandom(5_000_000)
    answer = api.submit("lab", payload)
    while api._played[0].play():
        pass
    proxy.down.rate = 4_000_000
    proxy.down.cut_after = 1_500_000
    before = proxy.down.passed
    page = client.group_results(answer["group_id"])
    assert page["results"][0]["result"] == payload
    assert proxy.down.passed - before < 1.5 * len(payload)
    record = client.get_task_result(answer["task_ids"][0])
    assert record["result"] == b64(payload)
