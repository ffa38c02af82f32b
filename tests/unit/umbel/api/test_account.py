"""Which service, which token."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.umbel.http_server import Answer, Asked, ScriptedServer
from umbel import Client, Executor
from umbel.api.account import Account, find_account, save_account
from umbel.protocol.errors import BadRequest, Unauthorized


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UMBEL_HOME", str(tmp_path))
    return tmp_path


def test_the_file_that_login_wrote(home: Path) -> None:
    path = save_account(Account("https://umbel.example", "umb_x"))
    assert path == home / "client.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert find_account() == Account("https://umbel.example", "umb_x")
    assert [file.name for file in home.iterdir()] == ["client.json"]


def test_the_environment_goes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_account(Account("https://umbel.example", "umb_x"))
    monkeypatch.setenv("UMBEL_TOKEN", "umb_env")
    assert find_account() == Account("https://umbel.example", "umb_env")
    monkeypatch.setenv("UMBEL_API_URL", "http://127.0.0.1:1/")
    assert find_account() == Account("http://127.0.0.1:1", "umb_env")
    assert find_account("http://b", "umb_arg") == Account("http://b", "umb_arg")


def test_a_token_is_not_sent_to_another_service(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_account(Account("https://umbel.example", "umb_x"))
    monkeypatch.setenv("UMBEL_API_URL", "https://elsewhere.example")
    assert find_account().token is None
    monkeypatch.setenv("UMBEL_API_URL", "https://umbel.example/")
    assert find_account().token == "umb_x"


def test_nothing_known(home: Path) -> None:
    with pytest.raises(Unauthorized, match="umbel login"):
        find_account()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"url": 1', "\0"])
def test_a_damaged_file(home: Path, text: str) -> None:
    (home / "client.json").write_text(text)
    with pytest.raises(BadRequest, match="damaged"):
        find_account()


def test_an_address_without_a_scheme(home: Path) -> None:
    with pytest.raises(BadRequest, match="http://"):
        find_account("umbel.example", "t")


def test_writing_replaces_the_whole_file(home: Path) -> None:
    save_account(Account("https://a.example", "umb_" + "x" * 100))
    path = save_account(Account("https://b.example", "umb_y"))
    assert json.loads(path.read_text()) == {"url": "https://b.example", "token": "umb_y"}


def test_in_a_call(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_WORK", str(home))
    with pytest.raises(Unauthorized, match="no access to the service.*submit them.*nested_submit = true"):
        Executor("local")


def only(token: str) -> Callable[[Asked], Answer]:
    """Accept one token, as the service does."""

    def answer(asked: Asked) -> Answer:
        header = asked.headers.get("Authorization", "")
        if header == f"Bearer {token}":
            return Answer(200, {"name": "ada"})
        reason = "the token is unknown" if header else "no valid token: send the header 'Authorization: ...'"
        return Answer(401, {"code": "UNAUTHORIZED", "message": reason})

    return answer


def test_a_token_that_is_stored_later_is_found(
    home: Path, serve: Callable[..., ScriptedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(only("umb_new"))
    url = server.account.url
    monkeypatch.setenv("UMBEL_API_URL", url)
    with Client() as client:
        other = Client(transport=client.transport.clone())  # an executor has several
        with pytest.raises(Unauthorized, match="umbel login.*make up") as caught:
            client.whoami()
        assert "header" not in str(caught.value) and caught.value.code == "UNAUTHORIZED"
        save_account(Account(url, "umb_old"))
        with pytest.raises(Unauthorized, match="unknown"):
            client.whoami()
        save_account(Account(url, "umb_new"))
        assert client.whoami() == other.whoami() == {"name": "ada"}
        other.close()
    assert [asked.headers.get("Authorization") for asked in server.asked] == [
        *(None, "Bearer umb_old", "Bearer umb_old", "Bearer umb_new", "Bearer umb_new"),
    ]


def test_a_token_of_the_program_itself_is_not_replaced(
    home: Path, serve: Callable[..., ScriptedServer]
) -> None:
    server = serve(only("umb_new"))
    save_account(Account(server.account.url, "umb_new"))
    with Client(server.account.url, "umb_mine") as client, pytest.raises(Unauthorized):
        client.whoami()
    assert len(server.asked) == 1
