"""What the long-running commands of the server share: flags, logging, signals."""

from __future__ import annotations

import argparse
import ctypes
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from umbel.protocol.errors import UmbelError

from .config.settings import load
from .context import Federation, open_federation

#: Set when the process shall stop.
Stop = threading.Event

#: glibc: numbers of its settings (malloc.h), and how many free bytes a process keeps before it gives any
#: back.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENAS = -1, -3, -8
KEPT_MEMORY = 32 * 1024 * 1024

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def run_process(name: str, run: Callable[[Federation, Stop], None], argv: Sequence[str] | None = None) -> int:
    """Open the federation of ``--home`` and call ``run`` until SIGTERM or SIGINT sets its event.

    Returns the exit code: 0, or 2 with a sentence when the settings cannot be used.
    """
    parser = argparse.ArgumentParser(prog=f"python -m federation {name}")
    parser.add_argument("--home", type=Path, help="folder of the service (default: $UMBEL_HOME or ~/.umbel)")
    flags = parser.parse_args(argv)
    keep_memory()
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = load(flags.home)
        logging.basicConfig(level=settings.log_level, format=LOG_FORMAT)
        fed = open_federation(settings)
    except UmbelError as error:
        print(f"umbel: {error.message}", file=sys.stderr)
        return 2
    try:
        run(fed, stop)
    finally:
        fed.close()
    return 0


def keep_memory() -> bool:
    """Have this process use freed memory again instead of giving it back at once; False where it cannot.

    Megabytes of payloads come and go with every request. By default glibc asks the system for each large
    piece, which clears it page by page: a third of the time that large payloads took, most of all on virtual
    machines.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    settings = {_TRIM_THRESHOLD: KEPT_MEMORY, _MMAP_THRESHOLD: KEPT_MEMORY, _ARENAS: 1}
    return all([mallopt(number, value) for number, value in settings.items()])
