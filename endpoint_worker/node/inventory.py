"""What a node reports about itself: its machine and its software."""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
from pathlib import Path
from typing import Any

import celery

from umbel.protocol.version import __version__

from ..config.hardware import memory, processors

#: Maximum number of reported packages, and maximum bytes of their names and versions together.
MAX_PACKAGES, MAX_PACKAGE_BYTES = 500, 12_000
#: Where the NVIDIA and AMD drivers list their cards. The driver itself is not called: that takes seconds and
#: allocates memory on the card.
_NVIDIA = Path("/proc/driver/nvidia/gpus")
_CARDS = Path("/sys/class/drm")
_INSTALLED = re.compile(r"([A-Za-z0-9_.]+)-([A-Za-z0-9_.+!]+)\.dist-info")
_MAKERS = {"0x10de": "NVIDIA", "0x1002": "AMD"}


def of_node() -> dict[str, Any]:
    """Facts that do not change while this process runs, few enough for the node's description.

    ``memory``: bytes; ``cpus``: processors that the worker may use; ``gpus``: names of accelerators.
    """
    return {
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "umbel": __version__,
        "celery": celery.__version__,
        "cpu": cpu_model(),
        "cpus": len(processors()),
        "memory": memory(),
        "gpus": gpus(),
    }


def packages() -> dict[str, str]:
    """Package versions by name in this Python, which runners without a sandbox use, too."""
    found: dict[str, str] = {}
    for directory in sys.path:
        try:
            names = os.listdir(directory or ".")
        except OSError:
            continue
        # from directory names: reading each package's metadata takes a thousand times as long
        for match in filter(None, map(_INSTALLED.fullmatch, names)):
            found.setdefault(match[1].lower().replace("_", "-"), match[2])
    size = 0
    kept: dict[str, str] = {}
    for name in sorted(found)[:MAX_PACKAGES]:
        size += len(name) + len(found[name])
        if size > MAX_PACKAGE_BYTES:
            break
        kept[name] = found[name]
    return kept


def cpu_model(file: Path = Path("/proc/cpuinfo")) -> str:
    """Processor model, as far as the system reports it."""
    try:
        match = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", file.read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1].strip()[:100] if match else platform.processor() or platform.machine()


def gpus(nvidia: Path = _NVIDIA, cards: Path = _CARDS) -> list[str]:
    """Names of the accelerators of this machine, whether or not they are assigned to slots."""
    found = []
    for card in sorted(nvidia.glob("*/information")):
        match = re.search(r"^Model:\s*(.+)$", _read(card), re.MULTILINE)
        found.append(match[1].strip() if match else "NVIDIA")
    if found:
        return found[:64]
    for card in sorted(cards.glob("card[0-9]*")):
        if not card.name[4:].isdigit():
            continue  # a connector of a card, not a card
        device = card / "device"
        maker = _MAKERS.get(_read(device / "vendor").strip())
        # integrated graphics have no memory of their own; only AMD's driver reports the size
        if maker == "NVIDIA" or (maker == "AMD" and (device / "mem_info_vram_total").exists()):
            found.append(_read(device / "product_name").strip() or maker)
    return found[:64]


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
