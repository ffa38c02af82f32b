"""Which machine this is, and how often a node has started.

Host names are not unique: two hosts, or containers of one image, may have the same. The identity of a host is
that of its running kernel and of its process namespace, so it changes with each boot and each container.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import socket
import time
import uuid
from pathlib import Path

from umbel.system.files import write_private

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = "/proc/self/ns/pid"
#: Characters of the suffix of a node's name.
SUFFIX = 6


def node_name(given: str | None = None) -> str:
    """Return ``given`` or the host's name, made valid for file names and Celery."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", given or socket.gethostname()) or "node"


def host() -> str:
    """Return the host's name and identity: processes of one host see each other and share file locks."""
    return f"{node_name()}/{_digest(*_machine())}"


def default_node_name(directory: Path, block: str = "") -> str:
    """Return the name of this machine's node of the endpoint in ``directory``.

    It is the host's name and a suffix, after the name of the batch job if there is one. Two machines of one
    name, and copies of a directory on one machine, have different suffixes.
    """
    try:
        status = directory.stat()
        place = f"{status.st_dev}:{status.st_ino}"
    except OSError:
        place = str(directory)
    name = f"{node_name()}-{_digest(*_machine(), place)}"
    return f"{block}.{name}" if block else name


def next_incarnation(file: Path) -> int:
    """Return a number that grows with each start of a node; ``file`` keeps the last one.

    It is at least the time in milliseconds, so that it grows even if the file is lost or cannot be written.
    """
    now = int(time.time() * 1000)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return now
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        number = max(_number(file) + 1, now)
        write_private(file, f"{number}\n")
    except OSError:
        return max(_number(file) + 1, now)
    finally:
        os.close(lock)
    return number


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0


def _machine() -> tuple[str, str]:
    try:
        boot = _BOOT_ID.read_text().strip()
    except OSError:
        boot = f"{uuid.getnode():x}"
    try:
        namespace = os.readlink(_NAMESPACE)
    except OSError:
        namespace = ""
    return boot, namespace


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:SUFFIX]
