"""What the server's long-running commands share: flags, logging, signals."""

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
from umbel.system.memory import collect_less_often

from .config.settings import Settings, load
from .context import Federation, open_federation
from .db.errors import RETRYABLE

#: Set when the process must stop.
Stop = threading.Event

#: glibc: option numbers of mallopt (malloc.h), and the free bytes that a process keeps before it returns
#: memory to the system.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENAS = -1, -3, -8
KEPT_MEMORY = 32 * 1024 * 1024

#: Pause between two attempts to open a database that is unavailable, seconds.
OPEN_INTERVAL = 1.0

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def run_process(name: str, run: Callable[[Federation, Stop], None], argv: Sequence[str] | None = None) -> int:
    """Open the federation of ``--home`` and call ``run``; SIGTERM or SIGINT sets its stop event.

    Returns the exit code: 0, or 2 with an error message if the settings are invalid.
    """
    parser = argparse.ArgumentParser(prog=f"python -m federation {name}")
    parser.add_argument(
        "--home", type=Path, help="directory of the service (default: $UMBEL_HOME or ~/.umbel)"
    )
    flags = parser.parse_args(argv)
    keep_memory()
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = load(flags.home)
        logging.basicConfig(level=settings.log_level, format=LOG_FORMAT)
        fed = open_when_available(settings, stop)
    except UmbelError as error:
        print(f"umbel: {error.message}", file=sys.stderr)
        return 2
    if fed is None:
        return 0
    collect_less_often()
    try:
        run(fed, stop)
    finally:
        fed.close()
    return 0


def open_when_available(settings: Settings, stop: Stop) -> Federation | None:
    """Open the federation, as soon as its database is available; None if ``stop`` is set before.

    Raises UmbelError if the settings or the database cannot be used.
    """
    while not stop.is_set():
        try:
            return open_federation(settings)
        except RETRYABLE as error:
            logging.getLogger(__name__).warning("cannot open the database, retrying: %s", error)
            stop.wait(OPEN_INTERVAL)
    return None


def keep_memory() -> bool:
    """Make this process reuse freed memory instead of returning it at once; False if not supported.

    Every request allocates and frees megabytes of payloads. By default glibc maps each large allocation anew
    and the kernel clears it page by page, which took a third of the time of large payloads, more on virtual
    machines.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    settings = {_TRIM_THRESHOLD: KEPT_MEMORY, _MMAP_THRESHOLD: KEPT_MEMORY, _ARENAS: 1}
    return all([mallopt(number, value) for number, value in settings.items()])
