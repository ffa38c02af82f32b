"""What runs in a home: a status file for people and tools, and the leftovers of an ``up`` that was killed."""

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

#: What leftovers are given to end by themselves, seconds.
LEFTOVER_GRACE = 3.0
#: Two readings of when a process was made may differ by this much when the clock was set meanwhile, seconds.
CLOCK_STEP = 2.0


def status_file(home: Path) -> Path:
    """The file that says what runs in ``home``: JSON, rewritten at every change."""
    return home / "status.json"


def write_status(home: Path, url: str, children: Iterable[Child]) -> None:
    """Write the status file.

    ``{"pid": 1, "url": "http://...", "components": {name: {"pid": 2, "created": seconds, "restarts": 0}}}``;
    ``created`` tells a process from a later one with the same number.
    """
    components = {}
    for child in children:
        if child.pid is not None:
            try:
                created = psutil.Process(child.pid).create_time()
            except psutil.NoSuchProcess:
                continue
            components[child.spec.name] = {"pid": child.pid, "created": created, "restarts": child.deaths}
    status = {"pid": os.getpid(), "url": url, "written": time.time(), "components": components}
    write_private(status_file(home), json.dumps(status, indent=1) + "\n")


def end_leftovers(home: Path) -> list[str]:
    """End what an earlier ``up`` in ``home``, killed before it could, has left running; return the names.

    To be called by the holder of the home's lock only.
    """
    found = {}
    for name, entry in _components(home).items():
        try:
            process = psutil.Process(int(entry["pid"]))
            if abs(process.create_time() - float(entry["created"])) < CLOCK_STEP:
                found[name] = process
        except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
            continue
    families = [*found.values()]
    for process in found.values():
        try:
            families += process.children(recursive=True)
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    kill_processes(wait_for_end(families, LEFTOVER_GRACE))
    return sorted(found)


def _components(home: Path) -> dict[str, Any]:
    try:
        components = json.loads(status_file(home).read_text(encoding="utf-8"))["components"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return components if isinstance(components, dict) else {}
