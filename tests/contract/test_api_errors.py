"""Whatever comes in, the answer is a 4xx in the one error shape, and never a 5xx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from sqlalchemy.exc import ProgrammingError
from werkzeug.test import TestResponse

from federation.db.errors import DatabaseConflict, DatabaseFull, DatabaseRefused, DatabaseUnavailable
from federation.registry import functions, users
from tests.support.api import Api, Caller, b64
from umbel.protocol import limits
from umbel.protocol.errors import HTTP_STATUS

ID = "5d0c7a5e-7a1c-4a46-9c3e-2f4f0c1d9b10"
FUNCTION = {"name": "f", "body": b64(b"1")}
SUBMISSION = {"function_id": ID, "endpoint_id": "lab", "payloads": [b64(b"1")]}
ENDPOINT = {"name": "lab", "public_key": b64(bytes(32))}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, broker_url: str) -> Iterator[Api]:
    """One service for all tests of this file that change nothing."""
    with Api(tmp_path_factory.mktemp("home"), broker_url) as api:
        yield api


def refused(answer: TestResponse, status: int, code: str) -> dict[str, Any]:
    """The error, when it is the expected one in the expected shape."""
    error: dict[str, Any] = answer.json or {}
    assert (answer.status_code, error.get("code")) == (status, code), answer.text
    assert set(error) == {"code", "message", "details"}
    assert HTTP_STATUS[code] == status and error["message"] and isinstance(error["details"], dict)
    return error


ROUTES = [
    ("GET", "/v1/whoami"),
    ("GET", "/v1/functions"),
    ("POST", "/v1/functions"),
    ("GET", f"/v1/functions/{ID}"),
    ("GET", f"/v1/functions/{ID}/summary"),
    ("DELETE", f"/v1/functions/{ID}"),
    ("GET", "/v1/endpoints"),
    ("POST", "/v1/endpoints"),
    ("POST", "/v1/codes"),
    ("POST", "/v1/registrations"),
    ("GET", "/v1/endpoints/lab"),
    ("PATCH", "/v1/endpoints/lab"),
    ("DELETE", "/v1/endpoints/lab"),
    ("GET", "/v1/sites"),
    ("POST", "/v1/sites"),
    ("GET", "/v1/endpoints/lab/blocks"),
    ("POST", "/v1/endpoints/lab/pause"),
    ("POST", "/v1/endpoints/lab/resume"),
    ("PATCH", "/v1/endpoints/lab/policy"),
    ("GET", "/v1/tasks"),
    ("POST", "/v1/tasks"),
    ("GET", f"/v1/tasks/{ID}"),
    ("GET", f"/v1/tasks/{ID}/log"),
    ("GET", f"/v1/tasks/{ID}/items"),
    ("GET", f"/v1/tasks/{ID}/result"),
    ("POST", f"/v1/tasks/{ID}/cancel"),
    ("POST", f"/v1/tasks/{ID}/token"),
    ("POST", "/v1/cancellations"),
    ("GET", f"/v1/groups/{ID}"),
    ("GET", f"/v1/groups/{ID}/results"),
    ("POST", f"/v1/groups/{ID}/cancel"),
    ("PUT", f"/v1/uploads/{ID}"),
]


def test_the_list_of_routes_here_is_complete(shared: Api) -> None:
    document = shared.anybody.ok("GET", "/openapi.json")
    known = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert len([route for route in known if route[1].startswith("/v1")]) == len(ROUTES)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer umb_" + "x" * 43, "Bearer " + "é" * 9]
)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_needs_a_token(shared: Api, method: str, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = shared.anybody(method, path, headers=headers)
    refused(answer, 401, "UNAUTHORIZED")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_token_in_the_query_or_a_cookie_is_none(shared: Api) -> None:
    refused(shared.anybody("GET", f"/v1/whoami?token={shared.token}"), 401, "UNAUTHORIZED")
    refused(
        shared.anybody("GET", "/v1/whoami", headers={"Cookie": f"token={shared.token}"}), 401, "UNAUTHORIZED"
    )


def test_another_users_objects_do_not_exist(api: Api) -> None:
    api.endpoint("lab")
    function = api.function()
    accepted = api.submit("lab", b"1")
    task, group = accepted["task_ids"][0], accepted["group_id"]
    endpoint = api.ada.ok("GET", "/v1/endpoints/lab")["id"]
    for method, path, code in [
        ("GET", f"/v1/functions/{function}", "FUNCTION_NOT_FOUND"),
        ("DELETE", f"/v1/functions/{function}", "FUNCTION_NOT_FOUND"),
        ("GET", f"/v1/endpoints/{endpoint}", "ENDPOINT_NOT_FOUND"),
        ("DELETE", "/v1/endpoints/lab", "ENDPOINT_NOT_FOUND"),
        ("GET", f"/v1/tasks/{task}", "TASK_NOT_FOUND"),
        ("GET", f"/v1/tasks/{task}/result", "TASK_NOT_FOUND"),
        ("POST", f"/v1/tasks/{task}/cancel", "TASK_NOT_FOUND"),
        ("GET", f"/v1/groups/{group}", "GROUP_NOT_FOUND"),
        ("GET", f"/v1/groups/{group}/results", "GROUP_NOT_FOUND"),
        ("POST", f"/v1/groups/{group}/cancel", "GROUP_NOT_FOUND"),
    ]:
        refused(api.bob(method, path), 404, code)
    refused(api.bob("PATCH", f"/v1/endpoints/{endpoint}", {}), 404, "ENDPOINT_NOT_FOUND")

    api.bob.ok("POST", "/v1/endpoints", {**ENDPOINT, "name": "his"})
    his = api.bob.ok("POST", "/v1/functions", FUNCTION)["id"]
    one = [b64(b"1")]
    for function_id, endpoint_id, group_id, code in [
        (function, "his", None, "FUNCTION_NOT_FOUND"),
        (his, endpoint, None, "ENDPOINT_NOT_FOUND"),
        (his, "his", group, "GROUP_NOT_FOUND"),
    ]:
        body = {"function_id": function_id, "endpoint_id": endpoint_id, "group_id": group_id, "payloads": one}
        refused(api.bob("POST", "/v1/tasks", body), 404, code)
    assert api.bob.ok("GET", "/v1/tasks")["items"] == []
    assert api.ada.ok("GET", f"/v1/tasks/{task}")["state"] != "cancelled"


def test_what_is_not_there(shared: Api) -> None:
    refused(shared.anybody("GET", "/nowhere"), 404, "NOT_FOUND")
    refused(shared.ada("GET", "/v1/functions/"), 404, "NOT_FOUND")
    refused(shared.ada("GET", "/v1/endpoints/%00"), 404, "NOT_FOUND")
    refused(shared.ada("GET", "/v1/functions/%F0%9F%8C%BF%ff"), 404, "FUNCTION_NOT_FOUND")
    answer = shared.ada("PUT", "/v1/functions")
    refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data", "application/xml"]
)
def test_a_body_that_is_not_called_json(shared: Api, kind: str) -> None:
    answer = shared.ada("POST", "/v1/functions", json.dumps(FUNCTION).encode(), content_type=kind)
    refused(answer, 415, "UNSUPPORTED_MEDIA_TYPE")


HOSTILE = {
    "empty": b"",
    "cut short": b'{"name": "f", ',
    "two values": b"{} {}",
    "not UTF-8": b'{"name": "\xff\xfe"}',
    "UTF-16": '{"name": "f"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "100,000 lists deep": b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "5,000 digits": b'{"name": ' + b"9" * 5000 + b"}",
    "NaN": b'{"name": NaN}',
    "Infinity": b'{"name": -Infinity}',
    "beyond every number": b'{"name": 1e999}',
    "lone surrogate": b'{"name": "\\ud800", "body": "MQ=="}',
    "raw NUL": b'{"name": "\0"}',
    "single quotes": b"{'name': 'f'}",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("path", ["/v1/functions", "/v1/endpoints", "/v1/tasks"])
def test_a_body_that_is_not_json(shared: Api, path: str, body: bytes) -> None:
    refused(shared.ada("POST", path, body), 400, "BAD_REQUEST")


DEEP: Any = {}
for _ in range(30):
    DEEP = {"a": DEEP}

WRONG: list[tuple[str, Any]] = [
    *[
        (path, body)
        for path in ("functions", "endpoints", "tasks")
        for body in (None, 1, "x", True, [], [{}], {})
    ],
    ("functions", {**FUNCTION, "owner": "me"}),
    ("functions", {**FUNCTION, "name": ""}),
    ("functions", {**FUNCTION, "name": "x" * 257}),
    ("functions", {**FUNCTION, "name": 7}),
    ("functions", {**FUNCTION, "name": None}),
    ("functions", {**FUNCTION, "name": "a\0b"}),
    ("functions", {**FUNCTION, "description": "x" * 4097}),
    ("functions", {**FUNCTION, "source": "x" * (256 * 1024 + 1)}),
    ("functions", {**FUNCTION, "body": ""}),
    ("functions", {**FUNCTION, "body": "no base64!"}),
    ("functions", {**FUNCTION, "body": "QQ"}),
    ("functions", {**FUNCTION, "body": "QQ==\n"}),
    ("functions", {**FUNCTION, "body": ["QQ=="]}),
    ("endpoints", {**ENDPOINT, "name": "a b"}),
    ("endpoints", {**ENDPOINT, "name": "lab\n"}),
    ("endpoints", {**ENDPOINT, "name": ID}),
    ("endpoints", {**ENDPOINT, "name": "x" * 64}),
    ("endpoints", {**ENDPOINT, "public_key": b64(bytes(31))}),
    ("endpoints", {**ENDPOINT, "metadata": []}),
    ("endpoints", {**ENDPOINT, "metadata": {"a": "x" * 20_000}}),
    ("endpoints", {**ENDPOINT, "metadata": DEEP}),
    ("tasks", {**SUBMISSION, "extra": 1}),
    ("tasks", {**SUBMISSION, "function_id": "x"}),
    ("tasks", {**SUBMISSION, "function_id": ID.upper()}),
    ("tasks", {**SUBMISSION, "function_id": ID + "\n"}),
    ("tasks", {**SUBMISSION, "endpoint_id": ""}),
    ("tasks", {**SUBMISSION, "group_id": "mine"}),
    ("tasks", {**SUBMISSION, "payloads": "QQ=="}),
    ("tasks", {**SUBMISSION, "payloads": {"0": "QQ=="}}),
    ("tasks", {**SUBMISSION, "payloads": ["QQ==", None]}),
    ("tasks", {**SUBMISSION, "payloads": ["QQ==", "é"]}),
    ("tasks", {**SUBMISSION, "payloads": ["QQ==QQ=="]}),
    ("tasks", {**SUBMISSION, "options": []}),
    *[
        ("tasks", {**SUBMISSION, "options": options})
        for options in (
            {"speed": 1},
            {"timeout": 0},
            {"timeout": -1},
            {"timeout": "60"},
            {"timeout": True},
            {"timeout": 1e300},
            {"nested": 1},
            {"nested": "true"},
            {"memory": 1.5},
            {"memory": "1000000"},
            {"memory": 1},
            {"retries": -1},
            {"retries": 101},
            {"retry_on": "ValueError"},
            {"retry_on": [1]},
            {"retry_on": ["E"] * 33},
            {"priority": 101},
            {"max_attempts": 0},
            {"tags": ["x" * 65]},
            {"tags": ["x"] * 33},
            {"tags": ["\0"]},
        )
    ],
]


@pytest.mark.parametrize(("path", "body"), WRONG, ids=lambda value: json.dumps(value)[:60])
def test_a_body_that_is_not_what_the_route_takes(shared: Api, path: str, body: Any) -> None:
    answer = shared.ada("POST", f"/v1/{path}", json.dumps(body).encode())
    error = refused(answer, 422, "VALIDATION_ERROR")
    if isinstance(body, dict) and body:
        assert error["details"]


def test_the_message_names_the_field(shared: Api) -> None:
    body = {**SUBMISSION, "payloads": ["QQ=="] * 3 + ["!"]}
    error = refused(shared.ada("POST", "/v1/tasks", body), 422, "VALIDATION_ERROR")
    assert "payloads.3" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "where", "name", "near"),
    [
        ("POST", "/v1/tasks", {**SUBMISSION, "payload": []}, ["json"], "payload", "payloads"),
        (
            "POST",
            "/v1/tasks",
            {**SUBMISSION, "options": {"priorty": 1}},
            ["json", "options"],
            "priorty",
            "priority",
        ),
        ("GET", "/v1/functions?limt=3", None, ["query"], "limt", "limit"),
    ],
)
def test_an_unknown_field_gets_a_suggestion(
    shared: Api, method: str, path: str, body: Any, where: list[str], name: str, near: str
) -> None:
    error = refused(shared.ada(method, path, body), 422, "VALIDATION_ERROR")
    found = error["details"]
    for key in where:
        found = found[key]
    assert list(found) == [name] and f"did you mean '{near}'?" in found[name][0]
    assert ".".join([*where, name]) in error["message"] and near in error["message"]


@pytest.mark.parametrize(
    "query",
    [
        "/v1/functions?limit=0",
        "/v1/functions?limit=1001",
        "/v1/functions?limit=x",
        "/v1/functions?limit=" + "9" * 5000,
        "/v1/functions?cursor=",
        "/v1/functions?cursor=xyz",
        "/v1/functions?cursor=" + "4" * 48,
        "/v1/tasks?cursor=1f",
        "/v1/tasks?cursor=" + "f" * 48,
        "/v1/functions?page=2",
        "/v1/endpoints?limit=-1",
        "/v1/tasks?state=lost",
        "/v1/tasks?since=nan",
        "/v1/tasks?until=inf",
        "/v1/tasks?function_id=x",
        "/v1/tasks?endpoint_id=%00",
        f"/v1/groups/{ID}/results?after=-1",
        f"/v1/groups/{ID}/results?wait=31",
        f"/v1/groups/{ID}/results?wait=nan",
        f"/v1/groups/{ID}/results?limit=0",
        f"/v1/groups/{ID}/results?after=" + "9" * 30,
    ],
)
def test_a_query_that_is_not_what_the_route_takes(shared: Api, query: str) -> None:
    refused(shared.ada("GET", query), 422, "VALIDATION_ERROR")


@pytest.mark.parametrize("key", ["", "x" * 129])
def test_an_impossible_idempotency_key(shared: Api, key: str) -> None:
    answer = shared.ada("POST", "/v1/tasks", SUBMISSION, headers={"Idempotency-Key": key})
    refused(answer, 422, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/tasks"), ("GET", "/v1/tasks"), ("DELETE", "/v1/endpoints/lab")]
)
def test_a_body_of_more_than_12_mib(shared: Api, method: str, path: str) -> None:
    refused(shared.ada(method, path, bytes(limits.MAX_REQUEST_BYTES + 1)), 413, "PAYLOAD_TOO_LARGE")


def test_a_body_of_12_mib_is_read(shared: Api) -> None:
    body = b'{"name": "' + b"x" * (limits.MAX_REQUEST_BYTES - 12) + b'"}'
    assert len(body) == limits.MAX_REQUEST_BYTES
    refused(shared.ada("POST", "/v1/functions", body), 422, "VALIDATION_ERROR")


def test_a_full_queue_says_when_to_come_again(api: Api) -> None:
    api.endpoint("lab")
    object.__setattr__(api.fed.settings, "max_user_calls", 1)
    api.submit("lab", b"1")
    body = {"function_id": api.function(), "endpoint_id": "lab", "payloads": [b64(b"1")]}
    answer = api.ada("POST", "/v1/tasks", body)
    refused(answer, 429, "QUEUE_FULL")
    assert int(answer.headers["Retry-After"]) >= 1


def broken(api: Api, monkeypatch: pytest.MonkeyPatch, error: Exception) -> TestResponse:
    """The answer when ``error`` is raised below the web layer."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(functions, "page", fail)
    return api.ada("GET", "/v1/functions")


def test_our_own_faults_tell_nothing_but_a_number(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    error = refused(broken(api, monkeypatch, ZeroDivisionError("secret")), 500, "INTERNAL_ERROR")
    assert "secret" not in str(error)
    assert error["details"]["incident"] in caplog.text and "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (DatabaseFull("database or disk is full"), 507, "STORAGE_FULL"),
        (DatabaseUnavailable("database is locked"), 503, "UNAVAILABLE"),
        (DatabaseRefused("integer out of range"), 422, "VALIDATION_ERROR"),
        (DatabaseConflict("duplicate key"), 409, "CONFLICT"),
        (ProgrammingError("SELEC", {}, Exception("syntax error")), 500, "INTERNAL_ERROR"),
        (redis.ConnectionError("refused"), 503, "UNAVAILABLE"),
        (ConnectionResetError("reset"), 503, "UNAVAILABLE"),
    ],
)
def test_a_part_that_is_away(
    api: Api, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    answer = broken(api, monkeypatch, error)
    refused(answer, status, code)
    assert status != 503 or answer.headers["Retry-After"] == "1"


def test_a_token_of_a_user_works_until_it_is_over(api: Api) -> None:
    old = users.create_token(api.fed, api.user, "old", lifetime=-1)
    refused(api.caller(old)("GET", "/v1/whoami"), 401, "UNAUTHORIZED")
    assert isinstance(api.ada, Caller) and api.ada.ok("GET", "/v1/whoami")
