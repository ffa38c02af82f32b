"""The account of a client in a call that may submit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.umbel.conftest import Serve
from tests.unit.umbel.http_server import Answer, Asked
from umbel import Client
from umbel.api import nested
from umbel.api.account import CALL_VARIABLE, Account, save_account
from umbel.protocol.errors import Forbidden, ServiceUnavailable, Unauthorized
from umbel.system import call_access
from umbel.system.call_access import CallAccess


@pytest.fixture(autouse=True)
def in_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_HOME", str(tmp_path))
    monkeypatch.setenv(CALL_VARIABLE, str(tmp_path))


def access(url: str) -> CallAccess:
    return CallAccess(url, "umg_secret", lambda: "t1")


def test_a_call_without_a_grant_is_told_both_conditions() -> None:
    with pytest.raises(Unauthorized, match="nested_submit = true.*nested=True"):
        Client()


def test_a_grant_is_exchanged_for_a_token_and_again_when_that_is_rejected(serve: Serve) -> None:
    asked: list[tuple[str, str]] = []

    def answer(request: Asked) -> Answer:
        bearer = request.headers["Authorization"].removeprefix("Bearer ")
        asked.append((request.path, bearer))
        if request.path == "/v1/tasks/t1/token":
            return Answer(201, {"token": f"umb_{len(asked)}", "expires": 1.0})
        if bearer == "umb_1":
            return Answer(401, {"code": "UNAUTHORIZED", "message": "expired", "details": {}})
        return Answer(200, {"id": "t2"})

    with call_access.offering(access(serve(answer).account.url)):
        with Client() as client:
            assert client.get_task("t2") == {"id": "t2"}
    token, task = "/v1/tasks/t1/token", "/v1/tasks/t2"
    exchange = (token, "umg_secret")
    assert asked == [exchange, (task, "umb_1"), exchange, (task, "umb_3")]


def test_a_submission_that_does_not_allow_it(serve: Serve) -> None:
    def answer(request: Asked) -> Answer:
        return Answer(403, {"code": "FORBIDDEN", "message": "nested=True", "details": {}})

    with call_access.offering(access(serve(answer).account.url)):
        with pytest.raises(Forbidden, match="nested=True"):
            Client()


def test_the_grant_comes_before_the_file_of_the_account_and_after_an_address(
    serve: Serve, tmp_path: Path
) -> None:
    save_account(Account("http://of-the-account", "umb_account"))

    def answer(request: Asked) -> Answer:
        return Answer(201, {"token": "umb_call", "expires": 1.0})

    with call_access.offering(access(url := serve(answer).account.url)):
        assert nested.find() == Account(url, "umb_call")
        assert nested.find("http://b", "umb_b") == Account("http://b", "umb_b")
    assert nested.find() == Account("http://of-the-account", "umb_account")


def test_an_address_that_is_unknown_or_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nested, "PATIENCE", 0.1)
    for url in ("", "http://127.0.0.1:9"):
        with call_access.offering(access(url)), pytest.raises(ServiceUnavailable, match="api_url"):
            nested.find()


def test_the_grant_is_not_shown() -> None:
    assert "umg_" not in repr(access("http://a"))
