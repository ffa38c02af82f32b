"""Which service, which token."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

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
