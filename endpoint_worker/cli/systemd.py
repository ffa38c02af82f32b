"""Starting an endpoint with the machine: a unit of the account's own systemd."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ..config.directory import EndpointDirectory

#: Seconds that systemctl and loginctl may take.
TIMEOUT = 20.0
_UNIT = """\
# Written by 'umbel-endpoint enable-on-boot {name}', which replaces it; change it by 'systemctl --user edit'.
[Unit]
Description=Umbel endpoint {name}

[Service]
Environment={environment}
ExecStart={command}
Restart=on-failure
RestartSec=10
# 2: people must mend something first
RestartPreventExitStatus=2
KillMode=mixed
# the worker makes groups of its own in there, which limit the memory of calls
Delegate=memory
TimeoutStopSec={stop:g}

[Install]
WantedBy=default.target
"""


def unit_name(name: str) -> str:
    """Name of an endpoint's unit."""
    return f"umbel-endpoint-{name}.service"


def unit_file(name: str) -> Path:
    """Where the account's systemd looks for an endpoint's unit."""
    configured = os.environ.get("XDG_CONFIG_HOME")
    directory = Path(configured) if configured else Path.home() / ".config"
    return directory / "systemd" / "user" / unit_name(name)


def unit_text(directory: EndpointDirectory, home: Path, *, python_path: str, stop_seconds: float) -> str:
    """The unit: it runs this Python with this ``PATH``, and lets a worker stop for ``stop_seconds``."""
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
    """Write the unit and have systemd start it at boot; return the commands that people must still give.

    Raises OSError when the unit cannot be written.
    """
    file = unit_file(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, file)
    commands = [["systemctl", "--user", "daemon-reload"], ["systemctl", "--user", "enable", unit_name(name)]]
    left = [] if all(_run(command) for command in commands) else commands
    # without it the account's systemd starts when the account logs in, and ends its units when it logs out
    linger = ["loginctl", "enable-linger"]
    return [" ".join(command) for command in (left + ([] if not left and _run(linger) else [linger]))]


def disable(name: str) -> bool:
    """Remove the unit; False when there was none. A worker that runs goes on."""
    file = unit_file(name)
    if not file.exists():
        return False
    _run(["systemctl", "--user", "disable", unit_name(name)])
    # what 'disable' does, for when systemd does not answer
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
    """A word as systemd reads it: quotes, and no specifiers."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
