"""The unit that ``enable-on-boot`` writes, as systemd's own checker reads it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from endpoint_worker.cli.systemd import unit_name, unit_text
from endpoint_worker.config.directory import EndpointDirectory


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="wants systemd-analyze")
@pytest.mark.parametrize("folder", ["plain", 'a "b" 100% $HOME \\ c'])
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path, folder: str) -> None:
    home = tmp_path / folder
    text = unit_text(EndpointDirectory(home, "lab"), home, python_path=str(home / "code"), stop_seconds=25)
    file = tmp_path / unit_name("lab")
    file.write_text(text)
    assert _verify(file) == ""
    # and it would have said something
    file.write_text(text.replace("Restart=on-failure", "Restart=perhaps"))
    assert "perhaps" in _verify(file)


def _verify(file: Path) -> str:
    """What systemd has to say of a unit of its own account's manager; "" when all is well."""
    runtime = file.parent / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "SYSTEMD_LOG_LEVEL": "warning"}
    command = ["systemd-analyze", "--user", "--man=no", "verify", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ)
    said = [line for line in (done.stdout + done.stderr).splitlines() if file.name in line]
    assert said or done.returncode == 0, done
    return "\n".join(said)
