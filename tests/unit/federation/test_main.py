"""``python -m federation``: the right program for each command, and messages for errors."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from federation import __main__ as program


def test_a_command_gets_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def load(name: str) -> Any:
        assert name == "federation.services.sweeper"
        return SimpleNamespace(main=lambda argv: seen.append(argv))

    monkeypatch.setattr(program.importlib, "import_module", load)
    assert program.main(["sweep", "--home", "x"]) == 0
    assert seen == [["--home", "x"]]


def test_its_exit_code_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program.importlib, "import_module", lambda name: SimpleNamespace(main=lambda argv: 2))
    assert program.main(["up"]) == 2


@pytest.mark.parametrize("command", ["collect", "flower", "sweep", "up"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        program.main([command, "--help"])
    assert end.value.code == 0
    assert f"python -m federation {command}" in capsys.readouterr().out


def test_the_web_server_is_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    class Replaced(Exception):
        pass

    def replace(path: str, argv: list[str]) -> None:
        assert (path, argv) == (sys.executable, [sys.executable, "-m", "webapp.serve", "--port", "1"])
        raise Replaced

    monkeypatch.setattr(os, "execv", replace)
    with pytest.raises(Replaced):
        program.main(["web", "--port", "1"])


def test_an_old_python_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    assert program.main(["up"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert all(part in said.err for part in ("3.10", "3.9.18", sys.executable))


def test_an_old_python_can_read_the_file() -> None:
    source = Path(program.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 6))
    # old versions would evaluate annotations and fail on own imports before printing the message
    assert not any(node.returns for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))


@pytest.mark.parametrize(("argv", "code"), [([], 2), (["--help"], 0), (["help"], 0)])
def test_the_commands_are_listed(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(argv) == code
    said = capsys.readouterr().out
    assert all(f"\n  {command} " in said for command in [*program.MODULES, "web"])


def test_an_unknown_command_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["pu"]) == 2
    said = capsys.readouterr().err
    assert "'pu'" in said and "--help" in said and said.count("\n") == 1


def test_a_missing_library_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'sqlalchemy'", name="sqlalchemy.engine")

    monkeypatch.setattr(program.importlib, "import_module", load)
    assert program.main(["up"]) == 2
    assert "'sqlalchemy.engine'" in capsys.readouterr().err


def test_a_fault_of_our_own_is_not_called_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'federation.nothing'", name="federation.nothing")

    monkeypatch.setattr(program.importlib, "import_module", load)
    with pytest.raises(ModuleNotFoundError):
        program.main(["up"])
