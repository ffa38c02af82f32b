"""Ending daemons by their process ids."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil

from tests.support.embedded import gone
from tests.support.wait import wait_until


def end(pid_file: Path) -> None:
    """End the process whose id is in a file, politely at first; one that is not there is fine."""
    try:
        process = psutil.Process(int(pid_file.read_text()))
        process.send_signal(signal.SIGTERM)
    except (OSError, ValueError, psutil.NoSuchProcess):
        return
    try:
        wait_until(lambda: gone(process), 10.0)
    except AssertionError:
        process.kill()
