"""Starting with the machine: the unit, and what systemd is asked to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from endpoint_worker.cli import systemd
from endpoint_worker.cli.main import main
from tests.support import scripts
from tests.unit.endpoint_worker.config.test_settings import make

UNIT = "umbel-endpoint-lab.service"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a strange name that has an endpoint, and no systemd."""
    home = tmp_path / 'a "strange" 100% $home'
    make(home)
    monkeypatch.setenv("UMBEL_HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return home


@pytest.fixture
def asked(tmp_path: Path, home: Path) -> Path:
    """Stand-ins for systemctl and loginctl, which write down what they are asked."""
    asked = tmp_path / "asked"
    (tmp_path / "bin").mkdir()
    for name in ("systemctl", "loginctl"):
        refusal = f"test ! -e {tmp_path}/refuse-{name}"
        scripts.write(tmp_path / "bin" / name, f'echo {name} "$@" >> {asked}\n{refusal}')
    return asked


def run(*words: str) -> Result:
    result = CliRunner().invoke(main, list(words))
    assert "Traceback" not in result.output
    return result


def file(tmp_path: Path) -> Path:
    return tmp_path / "config" / "systemd" / "user" / UNIT


def test_the_unit_starts_this_python_with_this_home(home: Path, tmp_path: Path) -> None:
    (home / "endpoints" / "lab" / "endpoint.toml").write_text("drain_seconds = 90\n")
    assert run("enable-on-boot", "lab").exit_code == 0
    unit = dict(line.split("=", 1) for line in file(tmp_path).read_text().splitlines() if "=" in line[:30])
    assert unit["ExecStart"] == f'"{sys.executable}" "-m" "endpoint_worker" "start" "lab"'
    written = str(home).replace('"', '\\"').replace("%", "%%")
    assert unit["Environment"].startswith(f'"UMBEL_HOME={written}" "PATH={tmp_path}/bin" "PYTHONPATH=')
    assert (unit["Restart"], unit["RestartPreventExitStatus"]) == ("on-failure", "2")
    assert (unit["TimeoutStopSec"], unit["WantedBy"]) == ("110", "default.target")
    assert "u:p@" not in file(tmp_path).read_text()


def test_without_systemd_the_commands_are_printed(home: Path, tmp_path: Path) -> None:
    result = run("enable-on-boot", "lab")
    assert result.exit_code == 0
    for command in (
        "systemctl --user daemon-reload",
        f"systemctl --user enable {UNIT}",
        "loginctl enable-linger",
    ):
        assert f"    {command}\n" in result.output
    assert file(tmp_path).exists()


def test_systemd_is_asked_to_start_it_with_the_machine(home: Path, asked: Path, tmp_path: Path) -> None:
    result = run("enable-on-boot", "lab")
    wanted = ["systemctl --user daemon-reload", f"systemctl --user enable {UNIT}", "loginctl enable-linger"]
    assert asked.read_text().splitlines() == wanted
    assert result.exit_code == 0 and str(file(tmp_path)) in result.output
    assert "enable-linger" not in result.output and "daemon-reload" not in result.output


def test_what_systemd_refuses_is_left_to_people(home: Path, asked: Path, tmp_path: Path) -> None:
    (tmp_path / "refuse-loginctl").touch()
    result = run("enable-on-boot", "lab")
    assert "    loginctl enable-linger\n" in result.output
    assert "daemon-reload" not in result.output


@pytest.mark.parametrize("command", [["disable-on-boot", "lab"], ["delete", "lab", "--yes", "--local"]])
def test_disabling_and_deleting_remove_the_unit(
    home: Path, asked: Path, tmp_path: Path, command: list[str]
) -> None:
    run("enable-on-boot", "lab")
    wants = file(tmp_path).parent / "default.target.wants" / UNIT
    wants.parent.mkdir()
    wants.symlink_to(file(tmp_path))
    assert run(*command).exit_code == 0
    assert not file(tmp_path).exists()
    assert not wants.is_symlink()
    assert asked.read_text().splitlines()[-2:] == [
        f"systemctl --user disable {UNIT}",
        "systemctl --user daemon-reload",
    ]
    assert not list(file(tmp_path).parent.glob(".*")), "no drafts are left"


def test_disabling_what_is_not_enabled_says_so(home: Path) -> None:
    result = run("disable-on-boot", "lab")
    assert result.exit_code == 0
    assert str(systemd.unit_file("lab")) in result.output and "Removed" not in result.output


def test_the_folder_of_units_without_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert systemd.unit_file("lab") == tmp_path / ".config" / "systemd" / "user" / UNIT
