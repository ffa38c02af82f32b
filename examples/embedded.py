"""Run a complete Umbel service during a ``with`` block, in a temporary home that is deleted afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from umbel import Client, UmbelError
from umbel.api.account import find_account

ROOT = Path(__file__).resolve().parents[1]
START_DEADLINE = 60.0  # time limit for the endpoint to come online, seconds
STOP_DEADLINE = 15.0  # time limit for all processes to end, seconds


@contextmanager
def embedded_federation(workers: int = 2) -> Iterator[str]:
    """Run ``python -m federation up`` with ``workers`` slots and yield its URL; the SDK uses this service.

    Raises RuntimeError with the end of the service's log if it does not start or stop in time.
    """
    with tempfile.TemporaryDirectory(prefix="umbel-", ignore_cleanup_errors=True) as home:
        _forget_other_services(home)
        log = Path(home, "output.log")
        command = [sys.executable, "-m", "federation", "up", "--home", home, "--port", "0"]
        with log.open("wb") as output:
            # In a new session, so that Ctrl-C reaches this program only, which then stops the service.
            process = subprocess.Popen(
                [*command, "--workers", str(workers)],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield _wait_until_online(process, log)
        finally:
            _stop(process, log)


def interrupt_on_signals() -> None:
    """Make SIGTERM and SIGHUP interrupt the program like Ctrl-C, so that ``with`` blocks clean up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)


def _forget_other_services(home: str) -> None:
    for name in [name for name in os.environ if name.startswith("UMBEL_")]:
        del os.environ[name]
    os.environ["UMBEL_HOME"] = home


def _wait_until_online(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the service's URL as soon as its endpoint has a live worker."""
    deadline = time.monotonic() + START_DEADLINE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with Client(patience=1.0) as client:
                if client.get_endpoint("local")["state"] == "online":
                    return find_account().url
        except UmbelError:  # not ready: no token file, no web server or no endpoint yet
            time.sleep(0.05)
    what = "ended" if process.poll() is not None else f"is not ready after {START_DEADLINE:g} s"
    raise RuntimeError(f"the service {what}:\n{_tail(log)}")


def _stop(process: subprocess.Popen[bytes], log: Path) -> None:
    """Stop the service and wait until it has ended; a second Ctrl-C does not interrupt this."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.terminate()
        process.wait(STOP_DEADLINE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise RuntimeError(f"the service did not stop within {STOP_DEADLINE:g} s:\n{_tail(log)}") from None
    finally:
        signal.signal(signal.SIGINT, before)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])
