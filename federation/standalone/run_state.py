"""The status file of a home, and the processes left over from a killed ``up``."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from umbel.system.files import write_private

from .processes import kill_processes, wait_for_end
from .supervisor import Child

#: Time for leftover processes to end by themselves, seconds.
LEFTOVER_GRACE = 3.0
#: Tolerance between two readings of a process's creation time, because the clock may be set, seconds.
CLOCK_STEP = 2.0


def status_file(home: Path) -> Path:
    """Return the status file of ``home``: JSON, rewritten at every change."""
    return home / "status.json"


def write_status(home: Path, url: str, children: Iterable[Child]) -> None:
    """Write the status file.

    ``{"pid": 1, "url": "http://...", "components": {name: {"pid": 2, "created": seconds, "restarts": 0}}}``;
    ``created`` distinguishes a process from a later one with the same pid.
    """
    components = {}
    for child in children:
        if child.pid is not None:
            try:
                created = psutil.Process(child.pid).create_time()
            except psutil.NoSuchProcess:
                continue
            components[child.spec.name] = {"pid": child.pid, "created": created, "restarts": child.exits}
    status = {"pid": os.getpid(), "url": url, "written": time.time(), "components": components}
    write_private(status_file(home), json.dumps(status, indent=1) + "\n")


def end_leftovers(home: Path) -> list[str]:
    """End processes left over from a killed ``up`` in ``home``; return their names.

    Only the owner of the home's lock may call this.
    """
    found = {}
    for name, entry in _components(home).items():
        try:
            process = psutil.Process(int(entry["pid"]))
            if abs(process.create_time() - float(entry["created"])) < CLOCK_STEP:
                found[name] = process
        except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
            continue
    processes = [*found.values()]
    for process in found.values():
        try:
            processes += process.children(recursive=True)
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    kill_processes(wait_for_end(processes, LEFTOVER_GRACE))
    return sorted(found)


def _components(home: Path) -> dict[str, Any]:
    try:
        components = json.loads(status_file(home).read_text(encoding="utf-8"))["components"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return components if isinstance(components, dict) else {}
