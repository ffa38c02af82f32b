"""umbel.toml < environment < flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.config.settings import Settings, SettingsError, load


def write(home: Path, text: str) -> Path:
    (home / "umbel.toml").write_text(text)
    return home


def test_the_later_source_wins(tmp_path: Path) -> None:
    assert load(tmp_path, environ={}) == Settings(home=tmp_path)
    write(tmp_path, "[server]\nport = 1\nweb_threads = 2\nretention = 3\n")
    environ = {"UMBEL_PORT": "4", "UMBEL_WEB_THREADS": "5", "UMBEL_RETENTION": "6.5", "UMBEL_TOKEN": "t"}
    assert load(tmp_path, environ={}, host=None) == Settings(tmp_path, port=1, web_threads=2, retention=3.0)
    chosen = load(tmp_path, environ=environ, port=7, host=None)
    assert chosen == Settings(tmp_path, port=7, web_threads=5, retention=6.5)
    assert isinstance(chosen.retention, float)


def test_a_file_without_the_table_and_one_with_an_empty_one(tmp_path: Path) -> None:
    for text in ("", "[server]\n", "# nothing\n"):
        assert load(write(tmp_path, text), environ={}) == Settings(home=tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nprot = 8642", r"umbel.toml, \[server\]: unknown setting 'prot'; did you mean 'port'"),
        ("[server]\nhome = '/x'", "unknown setting 'home'"),
        ("port = 1", r"umbel.toml: unknown setting 'port'; it belongs in table \[server\]"),
        ("[servr]\nport = 1", "umbel.toml: unknown setting 'servr'; did you mean 'server'"),
        ("server = 3", "'server'.* got 3"),
        ("[server.port]\nx = 1", "'port'.* got a table"),
        ("[server]\nport = '8642'", "'port'.* got '8642'"),
        ("[server]\nport = 8642.0", "'port'.* got 8642.0"),
        ("[server]\nport = true", "'port'.* got true"),
        ("[server]\nport = -1", "'port'.* got -1"),
        ("[server]\nport = 65536", "'port'.* got 65536"),
        ("[server]\nretention = nan", "'retention'.* got nan"),
        ("[server]\nretention = -inf", "'retention'.* got -inf"),
        ("[server]\nmax_user_calls = 1" + "0" * 400, "'max_user_calls'.* more than 64 bits"),
        ("[server]\nlog_level = 'LOUD'", "'log_level'.* got 'LOUD'"),
        ("[server]\nhost = []", "'host'.* got a list"),
        ("[server", "umbel.toml"),
    ],
)
def test_a_wrong_file_is_rejected(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        load(write(tmp_path, text), environ={})
    assert caught.value.code == "BAD_REQUEST"


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "x"), ("PORT", ""), ("RETENTION", "nan"), ("WINDOW", "0"), ("LOG_LEVEL", "info")],
)
def test_a_wrong_variable_is_rejected(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"UMBEL_{name}.*got '{value}'") as caught:
        load(tmp_path, environ={f"UMBEL_{name}": value})
    assert caught.value.code == "BAD_REQUEST"


def test_a_wrong_flag_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'port'.*got 99999"):
        load(tmp_path, environ={}, port=99999)


@pytest.mark.parametrize("name", ["database_url", "broker_url"])
def test_urls_with_passwords_are_never_shown(tmp_path: Path, name: str) -> None:
    for text in (f"{name} = ['redis://u:hunter2@h']", f"{name}.x = 'hunter2'", f"{name}s = 'hunter2'"):
        with pytest.raises(SettingsError, match=name) as caught:
            load(write(tmp_path, f"[server]\n{text}\n"), environ={})
        assert "hunter2" not in str(caught.value)


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "umbel.toml").mkdir()
    with pytest.raises(SettingsError, match="umbel.toml"):
        load(tmp_path, environ={})


@pytest.mark.parametrize("name", ["sweep_interval", "retention", "node_lost_after", "busy_timeout"])
@pytest.mark.parametrize("value", ["1e12", "1e300", "inf", "nan", "-1"])
def test_a_time_that_no_wait_supports_is_refused(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match="(?i)" + name):
        load(tmp_path, environ={f"UMBEL_{name.upper()}": value})
