"""The ``umbel`` command, against the service in memory."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from umbel import Client
from umbel.api.account import Account, find_account
from umbel.cli import endpoint, logs, main, output
from umbel.protocol.errors import BadRequest, ServiceUnavailable, Unauthorized
from umbel.testing import LocalService
from umbel.testing.service import MemoryService

Umbel = Callable[..., Result]

PROGRAM = '''
def add(a, b=2):
    """Add two numbers."""
    return a + b

def fail(text):
    raise ValueError(text)

def wait(gate):
    import os, time
    while not os.path.exists(gate):
        time.sleep(0.01)
    return "open"

value = 3
'''


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalService]:
    with LocalService() as service:
        monkeypatch.setattr(main, "connect", service.client)
        monkeypatch.setattr(logs, "connect", service.client)
        monkeypatch.setenv("UMBEL_API_URL", "http://umbel.example")
        yield service


@pytest.fixture
def umbel(service: LocalService) -> Umbel:
    return lambda *words, **more: CliRunner().invoke(main.main, [str(word) for word in words], **more)


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program_of_a_user.py"
    path.write_text(PROGRAM)
    return str(path)


def test_whoami(umbel: Umbel) -> None:
    assert umbel("whoami").output == "memory at http://umbel.example\n"
    assert json.loads(umbel("whoami", "--json").stdout)["name"] == "memory"


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["3"], "5"), (["3", "4"], "7"), (["3", "b=4"], "7"), (["[1]", "[2]"], "[1, 2]"), (["a", "b"], "ab")],
)
def test_run_prints_what_the_function_returns(
    umbel: Umbel, program: str, words: list[str], expected: str
) -> None:
    result = umbel("run", f"{program}:add", *words, "-e", "local")
    assert (result.exit_code, result.stdout) == (0, expected + "\n")


def test_run_a_function_of_a_module(umbel: Umbel) -> None:
    assert umbel("run", "math:sqrt", "16", "-e", "local").stdout == "4.0\n"


def test_run_for_scripts(umbel: Umbel, program: str) -> None:
    record = json.loads(umbel("run", f"{program}:add", "3", "-e", "local", "--json").stdout)
    assert (record["state"], record["result"]) == ("succeeded", 5)


def test_a_function_that_raises(umbel: Umbel, program: str) -> None:
    result = umbel("run", f"{program}:fail", "oh no", "-e", "local")
    assert result.exit_code == 1 and result.stdout == ""
    assert "Traceback" in result.stderr and "ValueError: oh no" in result.stderr
    result = umbel("run", f"{program}:fail", "oh no", "-e", "local", "--json")
    record = json.loads(result.stdout)
    assert result.exit_code == 1
    assert record["state"] == "failed" and "ValueError: oh no" in record["error"]


def test_not_in_time(umbel: Umbel, program: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    result = umbel("run", f"{program}:wait", gate, "-e", "local", "--timeout", "0.2")
    gate.touch()
    assert result.exit_code == 6 and "0.2 s" in result.stderr


def test_a_task_from_run_to_result(umbel: Umbel, program: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task_id = umbel("run", f"{program}:wait", gate, "-e", "local", "--no-wait").stdout.strip()
    assert umbel("task", task_id, "--result", "--timeout", "0").exit_code == 6
    gate.touch()
    assert umbel("task", task_id, "--result", "--timeout", "10").stdout == "open\n"
    shown = umbel("task", task_id).stdout
    assert task_id in shown and "succeeded" in shown and "wait" in shown
    assert json.loads(umbel("task", task_id, "--json").stdout)["function_name"] == "wait"
    assert task_id in umbel("tasks", "--state", "succeeded").stdout
    assert json.loads(umbel("tasks", "--state", "failed", "--json").stdout) == []


def test_cancel(umbel: Umbel, program: str, tmp_path: Path) -> None:
    task_id = umbel("run", f"{program}:wait", tmp_path / "gate", "-e", "local", "--no-wait").stdout.strip()
    assert umbel("cancel", task_id).stdout == f"Task {task_id} is cancelled.\n"
    result = umbel("task", task_id, "--result")
    assert result.exit_code == 1 and "was cancelled" in result.stderr
    (tmp_path / "gate").touch()


def test_functions_and_endpoints(umbel: Umbel, program: str) -> None:
    empty = umbel("functions")
    assert empty.stdout == "" and "no functions" in empty.stderr
    umbel("run", f"{program}:add", "3", "-e", "local")
    assert "Add two numbers." in umbel("functions").stdout
    assert "local" in umbel("endpoints").stdout and "online" in umbel("endpoints").stdout
    assert json.loads(umbel("endpoints", "--json").stdout)[0]["slots_total"] == 4


def test_an_endpoint_is_shown_with_its_nodes(
    service: LocalService, umbel: Umbel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "connect", service.client)
    assert "local  online  4/4 slots free" in umbel("endpoint", "show", "local").stdout
    node = {"name": "n1", "live": True, "busy": 1, "slots": 4, "seen": 1.0, "cpus": 4, "memory": 2**34}
    node["clock_ahead"] = -600.4
    shown = {"nodes": [{**node, "gpus": ["NVIDIA A100"], "cpu": "EPYC"}], "packages": {"numpy": "2.1.0"}}
    known = MemoryService.endpoint
    monkeypatch.setattr(MemoryService, "endpoint", lambda self, name: {**known(self, name), **shown})
    text = umbel("endpoint", "show", "local", "--packages").stdout
    for word in ("n1", "live", "1/4", "16.0 GiB", "NVIDIA A100", "EPYC", "-600 s", "numpy==2.1.0"):
        assert word in text
    assert json.loads(umbel("endpoint", "show", "local", "--json").stdout)["packages"] == {"numpy": "2.1.0"}


def test_a_suspended_endpoint_says_why(
    service: LocalService, umbel: Umbel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "connect", service.client)
    record = {"suspended": {"since": 1e9, "until": 2e9, "reason": "it occupied 7 bytes"}}
    known = MemoryService.endpoint
    monkeypatch.setattr(MemoryService, "endpoint", lambda self, name: {**known(self, name), **record})
    for command in (["endpoints"], ["endpoint", "show", "local"]):
        text = umbel(*command).stdout
        assert "suspended" in text and "it occupied 7 bytes" in text


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("nothing", "FILE:FUNCTION"),
        ("missing.py:f", "no file missing.py"),
        ("no_such_module:f", "cannot be imported"),
        ("{program}:nope", "no function nope"),
        ("{program}:value", "no function value"),
    ],
)
def test_wrong_usage(umbel: Umbel, program: str, target: str, text: str) -> None:
    result = umbel("run", target.format(program=program), "-e", "local")
    assert result.exit_code == 2 and text in result.stderr and "Traceback" not in result.stderr


def test_things_that_do_not_exist(umbel: Umbel, service: LocalService, program: str) -> None:
    service.memory.endpoints = ("local",)
    assert umbel("task", "00000000-0000-7000-8000-000000000000").exit_code == 4
    result = umbel("run", f"{program}:add", "1", "-e", "nowhere")
    assert (
        result.exit_code == 4 and "ENDPOINT_NOT_FOUND" in result.stderr and "Traceback" not in result.stderr
    )


@pytest.mark.parametrize(
    ("error", "code"), [(ServiceUnavailable("away"), 3), (Unauthorized("no"), 5), (BadRequest("bad"), 5)]
)
def test_errors_of_the_service_are_a_sentence_and_a_code(
    umbel: Umbel, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fail(_: Client) -> None:
        raise error

    monkeypatch.setattr(Client, "whoami", fail)
    result = umbel("whoami")
    assert result.exit_code == code
    assert result.stderr.startswith("umbel: ") and result.stderr.count("\n") == 1


def test_a_home_that_cannot_be_used_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UMBEL_API_URL", raising=False)
    monkeypatch.setenv("UMBEL_HOME", "~no.such.user/umbel")
    result = CliRunner().invoke(main.main, ["whoami"])
    assert result.exit_code == 5 and result.output.count("\n") == 1
    assert "~no.such.user/umbel" in result.output and "UMBEL_HOME" in result.output


def test_login_remembers_the_service(umbel: Umbel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_HOME", str(tmp_path))
    monkeypatch.delenv("UMBEL_API_URL")
    monkeypatch.setattr(Client, "whoami", lambda _: {"id": "1", "name": "ada"})
    result = umbel("login", "http://umbel.example/", "--token-stdin", input="umb_secret\n")
    assert result.exit_code == 0 and "ada" in result.stdout and "umb_secret" not in result.output
    assert find_account() == Account("http://umbel.example", "umb_secret")
    assert stat.S_IMODE((tmp_path / "client.json").stat().st_mode) == 0o600


def test_login_with_a_wrong_token_remembers_nothing(
    umbel: Umbel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Client) -> None:
        raise Unauthorized("this token is unknown")

    monkeypatch.setenv("UMBEL_HOME", str(tmp_path))
    monkeypatch.setattr(Client, "whoami", fail)
    assert umbel("login", "http://umbel.example", "--token-stdin", input="x\n").exit_code == 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.0032, "3.2 ms"), (41.0, "41.0 s"), (600, "10 min"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert output.duration(seconds) == text
