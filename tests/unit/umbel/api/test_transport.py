"""HTTP: what is tried again, what is not, and which error comes of it."""

from __future__ import annotations

import datetime
import ipaddress
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.wait import wait_until
from tests.unit.umbel.http_server import Answer, Asked, ScriptedServer
from umbel.api import transport as transport_module
from umbel.api.account import Account
from umbel.api.transport import HttpTransport, Request, TransportClosed
from umbel.protocol import errors, parcel

Serve = Callable[[Callable[[Asked], Answer]], ScriptedServer]


@pytest.fixture
def connect() -> Iterator[Callable[..., HttpTransport]]:
    made: list[HttpTransport] = []

    def make(account: Account, patience: float = 5.0) -> HttpTransport:
        made.append(HttpTransport(account, patience))
        return made[-1]

    yield make
    for transport in made:
        transport.close()


def answers(*script: Answer) -> Callable[[Asked], Answer]:
    """Give these answers in turn, the last one for ever."""
    left = list(script)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def test_json_there_and_back(serve: Serve, connect: Callable[..., HttpTransport]) -> None:
    server = serve(lambda asked: Answer(200, {"got": json.loads(asked.body)}))
    answer = connect(server.account).send(
        Request("POST", "/v1/x", {"a": 1, "b": None, "c": "é&"}, {"n": [1]})
    )
    assert answer == {"got": {"n": [1]}}
    (asked,) = server.asked
    assert asked.path == "/v1/x?a=1&c=%C3%A9%26"
    assert asked.headers["Authorization"] == "Bearer umb_secret"
    assert asked.headers["Content-Type"] == "application/json"


def test_bytes_travel_in_a_parcel(serve: Serve, connect: Callable[..., HttpTransport]) -> None:
    server = serve(lambda _: Answer(202, {}))
    connect(server.account).send(Request("POST", "/v1/tasks", body={"n": 1}, blobs=[b"one", b"", b"three"]))
    (asked,) = server.asked
    record, joined = parcel.split(asked.body)
    assert asked.headers["Content-Type"] == parcel.SUBMISSION_TYPE
    assert json.loads(record)["n"] == 1
    assert parcel.cut(json.loads(record)["sizes"], joined) == [b"one", b"", b"three"]


def test_results_come_in_a_parcel_to_who_accepts_it(
    serve: Serve, connect: Callable[..., HttpTransport]
) -> None:
    rows = [{"task_id": "1", "state": "succeeded", "result": b"\0\xff", "exception": None}]
    page = {"results": rows, "cursor": 1, "live": 0}
    packed = Answer(200, b"".join(parcel.result_pieces(page)), {"Content-Type": parcel.RESULTS_TYPE})
    damaged = Answer(200, b"UMBP", {"Content-Type": parcel.RESULTS_TYPE})
    server = serve(answers(packed, Answer(200, {}), damaged))
    request = Request("GET", "/v1/groups/g/results", accept=parcel.RESULTS_TYPE)
    assert connect(server.account).send(request) == page
    assert server.asked[0].headers["Accept"] == "application/vnd.umbel.results, application/json"
    assert connect(server.account).send(Request("GET", "/v1/whoami")) == {}
    assert server.asked[1].headers["Accept"] == "application/json"
    with pytest.raises(errors.ServiceUnavailable, match="parcel"):
        connect(server.account).send(request)


def test_a_path_in_the_address_is_kept(serve: Serve, connect: Callable[..., HttpTransport]) -> None:
    server = serve(lambda _: Answer(200, {}))
    connect(Account(server.account.url + "/umbel", "t")).send(Request("GET", "/v1/whoami"))
    assert server.asked[0].path == "/umbel/v1/whoami"


def test_connections_are_kept(serve: Serve, connect: Callable[..., HttpTransport]) -> None:
    server = serve(lambda _: Answer(200, {}))
    transport = connect(server.account)
    for _ in range(20):
        transport.send(Request("GET", "/v1/whoami"))
    assert len(server.asked) == 20 and server.connections == 1


def test_no_content_is_none(serve: Serve, connect: Callable[..., HttpTransport]) -> None:
    assert connect(serve(lambda _: Answer(204, b"")).account).send(Request("DELETE", "/v1/x")) is None


@pytest.mark.parametrize("status", [429, 502, 503, 504, 500, 0])
def test_passing_troubles_are_tried_again(
    serve: Serve, connect: Callable[..., HttpTransport], status: int
) -> None:
    server = serve(answers(Answer(status, {}), Answer(status, {}), Answer(200, {"fine": True})))
    assert connect(server.account).send(Request("GET", "/v1/x")) == {"fine": True}
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [429, 502, 503, 504, 500, 0])
def test_a_post_is_sent_once(serve: Serve, connect: Callable[..., HttpTransport], status: int) -> None:
    server = serve(lambda _: Answer(status, {}))
    with pytest.raises(errors.ServiceError):
        connect(server.account).send(Request("POST", "/v1/x", body={}))
    assert len(server.asked) == 1


def test_a_post_with_a_key_is_tried_again_with_the_same_key(
    serve: Serve, connect: Callable[..., HttpTransport]
) -> None:
    server = serve(answers(Answer(0), Answer(503, {}), Answer(202, {})))
    connect(server.account).send(Request("POST", "/v1/tasks", body={"n": 1}, key="the-key"))
    assert [asked.headers["Idempotency-Key"] for asked in server.asked] == ["the-key"] * 3
    assert len({asked.body for asked in server.asked}) == 1


def test_retry_after_is_obeyed(serve: Serve, connect: Callable[..., HttpTransport]) -> None:
    server = serve(answers(Answer(429, {}, {"Retry-After": "1"}), Answer(200, {})))
    started = time.monotonic()
    connect(server.account).send(Request("GET", "/v1/x"))
    assert time.monotonic() - started >= 1.0


def test_patience_ends(serve: Serve, connect: Callable[..., HttpTransport]) -> None:
    body = {"code": "UNAVAILABLE", "message": "the database is away", "details": {"a": 1}}
    server = serve(lambda _: Answer(503, body))
    started = time.monotonic()
    with pytest.raises(errors.ServiceUnavailable, match="the database is away") as caught:
        connect(server.account, patience=0.5).send(Request("GET", "/v1/x"))
    assert time.monotonic() - started < 5
    assert caught.value.details == {"a": 1}
    assert len(server.asked) > 1


def test_an_address_that_nobody_listens_at(
    connect: Callable[..., HttpTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "BRIEF_PATIENCE", 0.3)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(errors.ServiceUnavailable, match="cannot be reached"):
        connect(Account(f"http://127.0.0.1:{port}"), patience=600.0).send(Request("GET", "/v1/x"))
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "BAD_REQUEST", errors.BadRequest),
        (401, "UNAUTHORIZED", errors.Unauthorized),
        (403, "FORBIDDEN", errors.Forbidden),
        (404, "FUNCTION_NOT_FOUND", errors.NotFound),
        (409, "IDEMPOTENCY_MISMATCH", errors.Conflict),
        (413, "PAYLOAD_TOO_LARGE", errors.TooLarge),
        (422, "VALIDATION_ERROR", errors.BadRequest),
    ],
)
def test_errors_of_the_service(
    serve: Serve,
    connect: Callable[..., HttpTransport],
    status: int,
    code: str,
    kind: type[errors.ServiceError],
) -> None:
    server = serve(lambda _: Answer(status, {"code": code, "message": "why", "details": {"id": "x"}}))
    with pytest.raises(kind) as caught:
        connect(server.account).send(Request("GET", "/v1/x"))
    assert (caught.value.code, caught.value.message, caught.value.details) == (code, "why", {"id": "x"})
    assert len(server.asked) == 1


@pytest.mark.parametrize("body", [b"<html>nginx</html>", b"[]", b'{"message": 1, "details": 3}', b""])
def test_errors_of_something_before_the_service(
    serve: Serve, connect: Callable[..., HttpTransport], body: bytes
) -> None:
    server = serve(lambda _: Answer(404, body))
    with pytest.raises(errors.NotFound) as caught:
        connect(server.account).send(Request("GET", "/v1/x"))
    assert caught.value.code == "NOT_FOUND" and caught.value.message


def test_an_answer_that_is_not_json(serve: Serve, connect: Callable[..., HttpTransport]) -> None:
    server = serve(lambda _: Answer(200, b"<html>a login page</html>"))
    with pytest.raises(errors.ServiceUnavailable, match="JSON"):
        connect(server.account).send(Request("GET", "/v1/x"))


def test_closing_wakes_a_long_poll(serve: Serve, connect: Callable[..., HttpTransport]) -> None:
    released = threading.Event()

    def script(_: Asked) -> Answer:
        released.wait(20)
        return Answer(200, {})

    server = serve(script)
    transport = connect(server.account)
    caught: list[BaseException] = []

    def poll() -> None:
        try:
            transport.send(Request("GET", "/v1/x"))
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=poll)
    thread.start()
    wait_until(lambda: server.asked, what="the poll to arrive")
    started = time.monotonic()
    transport.close()
    thread.join(10)
    released.set()
    assert time.monotonic() - started < 5
    assert isinstance(caught[0], TransportClosed)
    with pytest.raises(TransportClosed):
        transport.send(Request("GET", "/v1/x"))


def test_a_clone_is_closed_alone(serve: Serve, connect: Callable[..., HttpTransport]) -> None:
    server = serve(lambda _: Answer(200, {}))
    transport = connect(server.account)
    transport.clone().close()
    assert transport.send(Request("GET", "/v1/x")) == {}


def test_giving_up_ends_the_tries(serve: Serve, connect: Callable[..., HttpTransport]) -> None:
    server = serve(lambda _: Answer(429, {}, {"Retry-After": "30"}))
    given_up = threading.Event()
    threading.Timer(0.2, given_up.set).start()
    started = time.monotonic()
    with pytest.raises(TransportClosed):
        connect(server.account, 60.0).send(Request("GET", "/v1/x", given_up=given_up))
    assert time.monotonic() - started < 10


def test_the_token_is_in_no_log_and_no_error(
    serve: Serve, connect: Callable[..., HttpTransport], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(
        answers(Answer(503, {}), Answer(0), Answer(401, {"code": "UNAUTHORIZED", "message": "no"}))
    )
    with caplog.at_level(logging.DEBUG), pytest.raises(errors.Unauthorized) as caught:
        connect(server.account).send(Request("GET", "/v1/x"))
    assert "umb_secret" not in caplog.text + str(caught.value) + repr(server.account)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 with its key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "umbel test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = tmp_path / "certificate.pem"
    file.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return file


def test_tls(
    serve: Serve,
    connect: Callable[..., HttpTransport],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = serve(lambda _: Answer(200, {"fine": True}))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.secure(context)
    account = Account(server.account.url.replace("http://", "https://"), "t")
    stranger = connect(account)
    with pytest.raises(errors.ServiceUnavailable, match="check its certificate"):
        stranger.send(Request("GET", "/v1/x"))
    assert not server.asked
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    friend = connect(account)
    for _ in range(3):
        assert friend.send(Request("GET", "/v1/x")) == {"fine": True}
    assert server.connections == 1
