"""``python -m federation provision``: run the provisioner, or simulate a policy."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ...context import Federation
from ...packages import build
from ...process import Stop, run_process
from ..reconciler import Reconciler
from ..records import sites
from ..rounds import Rounds
from ..simulation import simulate
from ..site.machine import open_machine
from . import manage

log = logging.getLogger(__name__)

#: Seconds between two attempts to become the active provisioner.
LOCK_INTERVAL = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, or the provisioner until SIGTERM; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "simulate": simulate.main,
        "wheelhouse": wheelhouse,
        **manage.COMMANDS,
    }
    if words and words[0] in commands:
        return commands[words[0]](words[1:])
    return run_process("provision", serve, words)


def serve(fed: Federation, stop: Stop) -> None:
    """Reconcile all elastic endpoints until ``stop``; only one process per home directory is active."""
    logging.getLogger("paramiko").setLevel(logging.WARNING)
    lock = os.open(fed.settings.home / "provision.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                log.info("another provisioner is running; waiting for it to end")
                if stop.wait(LOCK_INTERVAL):
                    return
        Rounds(fed, lambda no: _open(fed, no)).run(stop)
    finally:
        os.close(lock)


def _open(fed: Federation, endpoint_no: int) -> Reconciler:
    """Return the reconciler of an endpoint. Raises NotFound."""
    machine = open_machine(fed, sites.find(fed, endpoint_no))
    return Reconciler(fed, machine, fed.settings.home / "wheelhouse")


def wheelhouse(argv: Sequence[str]) -> int:
    """Download and build all wheels that a site needs."""
    parser = argparse.ArgumentParser(
        prog="python -m federation provision wheelhouse", description=wheelhouse.__doc__
    )
    parser.add_argument("folder", type=Path, help="directory to write the wheels to")
    folder = parser.parse_args(argv).folder
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(folder)]
    try:
        own = build.build(folder)
    except build.BuildError as error:
        print(f"umbel: {error.message}", file=sys.stderr)
        return 1
    # the last two are needed by older Python versions, which a site may have
    return subprocess.run([*pip, f"{own.resolve()}[endpoint]", "pip", "async-timeout", "tomli"]).returncode
