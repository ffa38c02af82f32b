"""Starting an endpoint at boot: a unit of the account's own systemd instance."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ..config.directory import EndpointDirectory

#: Seconds to wait for systemctl and loginctl.
TIMEOUT = 20.0
_UNIT = """\
# Written by 'umbel-endpoint enable-on-boot {name}', which overwrites it; to change it: systemctl --user edit
[Unit]
Description=Umbel endpoint {name}

[Service]
Environment={environment}
ExecStart={command}
Restart=on-failure
RestartSec=10
# 2: an error that a restart does not fix
RestartPreventExitStatus=2
KillMode=mixed
# lets the worker create control groups that limit the memory of calls
Delegate=memory
TimeoutStopSec={stop:g}

[Install]
WantedBy=default.target
"""


def unit_name(name: str) -> str:
    """Return the name of an endpoint's unit."""
    return f"umbel-endpoint-{name}.service"


def unit_file(name: str) -> Path:
    """Return the path of an endpoint's unit."""
    configured = os.environ.get("XDG_CONFIG_HOME")
    directory = Path(configured) if configured else Path.home() / ".config"
    return directory / "systemd" / "user" / unit_name(name)


def unit_text(directory: EndpointDirectory, home: Path, *, python_path: str, stop_seconds: float) -> str:
    """Return the unit: it uses this Python and ``PATH``, and gives a worker ``stop_seconds`` to stop."""
    environment = {"UMBEL_HOME": str(home), "PATH": os.environ.get("PATH", os.defpath)}
    if python_path:
        environment["PYTHONPATH"] = python_path
    command = [sys.executable, "-m", "endpoint_worker", "start", directory.name]
    return _UNIT.format(
        name=directory.name,
        environment=" ".join(_quoted(f"{key}={value}") for key, value in environment.items()),
        command=" ".join(_quoted(word).replace("$", "$$") for word in command),
        stop=stop_seconds,
    )


def enable(name: str, text: str) -> list[str]:
    """Write and enable the unit; return the commands that the user must still run.

    Raises OSError if the unit cannot be written.
    """
    file = unit_file(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, file)
    commands = [["systemctl", "--user", "daemon-reload"], ["systemctl", "--user", "enable", unit_name(name)]]
    left = [] if all(_run(command) for command in commands) else commands
    # without it, the account's systemd runs only while the account is logged in
    linger = ["loginctl", "enable-linger"]
    return [" ".join(command) for command in (left + ([] if not left and _run(linger) else [linger]))]


def disable(name: str) -> bool:
    """Remove the unit; return False if there was none. A running worker continues."""
    file = unit_file(name)
    if not file.exists():
        return False
    _run(["systemctl", "--user", "disable", unit_name(name)])
    # what 'disable' does, in case systemd does not respond
    (file.parent / "default.target.wants" / unit_name(name)).unlink(missing_ok=True)
    file.unlink(missing_ok=True)
    _run(["systemctl", "--user", "daemon-reload"])
    return True


def _run(command: list[str]) -> bool:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _quoted(word: str) -> str:
    """Quote a word for systemd, without specifiers."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
