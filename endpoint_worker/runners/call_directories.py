"""The worker's side of the directories in which calls start: names, and removal after a runner has ended."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import threading
import time
from pathlib import Path

import psutil

from ..child.call_directory import RUNNERS, keep

log = logging.getLogger(__name__)

_removing: set[threading.Thread] = set()


def _host() -> str:
    """Return a name for this boot of this machine, or for this container: process ids are unique in it."""
    parts = []
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            parts.append(read())
        except OSError:
            parts.append(os.uname().nodename)
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:8]


def new_name(number: int) -> str:
    """Return a name for a runner's directory, unique among hosts that share a disk."""
    return f"{_host()}-{os.getpid()}-{number}-{secrets.token_hex(4)}"


def remove(work: Path, name: str, kept_as: str | None = None) -> None:
    """Remove the directory of an ended runner, in a thread of its own: it may contain much.

    ``kept_as``: move the directory of its last call to this name below ``kept`` first.
    """
    root = work / RUNNERS / name
    if not root.exists():
        return
    thread = threading.Thread(target=_remove, args=(root, work, kept_as), name="umbel-remove", daemon=True)
    _removing.add(thread)
    thread.start()


def _remove(root: Path, work: Path, kept_as: str | None) -> None:
    try:
        if kept_as is not None:
            numbers = [int(path.name) for path in root.iterdir() if path.name.isdigit()]
            if numbers:
                keep(str(root / str(max(numbers))), str(work), kept_as)
        shutil.rmtree(root, ignore_errors=True)
    except OSError as error:
        log.warning("cannot remove the directory %s of a runner: %s", root, error)
    finally:
        _removing.discard(threading.current_thread())


def wait(seconds: float) -> None:
    """Wait for removals, at most this long."""
    until = time.monotonic() + seconds
    for thread in list(_removing):
        thread.join(max(0.0, until - time.monotonic()))


def sweep(work: Path) -> None:
    """Remove directories of runners whose worker was killed on this host."""
    for root in [*work.glob(f"{RUNNERS}/*"), *work.glob(f"*/{RUNNERS}/*")]:
        host, _, rest = root.name.partition("-")
        pid = rest.partition("-")[0]
        if host == _host() and pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(root, ignore_errors=True)
