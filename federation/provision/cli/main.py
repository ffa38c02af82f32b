"""``python -m federation provision``: run the provisioner, or simulate a policy."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from umbel.protocol.errors import NotFound

from ...context import Federation
from ...db.errors import RETRYABLE
from ...packages import build
from ...process import Stop, run_process
from ..planning import demand
from ..reconciler import RECONCILE_INTERVAL, Reconciler
from ..records import sites
from ..simulation import simulate
from ..site.machine import open_machine
from . import manage

log = logging.getLogger(__name__)

#: Seconds between two checks for new and removed endpoints.
SITES_POLL_INTERVAL = 3.0
#: Seconds between two checks for work at endpoints without blocks: one small query for all of them.
WORK_POLL_INTERVAL = 0.2


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
                if stop.wait(SITES_POLL_INTERVAL):
                    return
        _reconcile_all(fed, stop)
    finally:
        os.close(lock)


def _reconcile_all(fed: Federation, stop: Stop) -> None:
    threads: dict[int, _ReconcilerThread] = {}
    working: set[int] = set()
    while not stop.is_set():
        try:
            found = sites.all_sites(fed)
            for site in found:
                reconciler = threads.get(site.endpoint_no)
                if reconciler is None or not reconciler.is_alive():
                    reconciler = threads[site.endpoint_no] = _ReconcilerThread(fed, site, stop)
                    reconciler.start()
            wakes = {site.endpoint_no: threads[site.endpoint_no].wake for site in found}
            working = poll_for_work(fed, stop, wakes, working)
        except RETRYABLE as error:
            log.warning("provisioner: retrying: %s", error)
            stop.wait(SITES_POLL_INTERVAL)
    for reconciler in threads.values():
        reconciler.wake.set()
    for reconciler in threads.values():
        reconciler.join(10.0)


def poll_for_work(
    fed: Federation, stop: Stop, wakes: Mapping[int, threading.Event], working: set[int]
) -> set[int]:
    """Watch for new work at endpoints without blocks for ``SITES_POLL_INTERVAL`` seconds; wake their threads.

    ``working``: endpoints that had work and no block before; the current ones are returned. Only the first
    block is urgent, because users wait for it; endpoints with blocks are handled in the next round.
    """
    until = time.monotonic() + SITES_POLL_INTERVAL
    while not stop.wait(WORK_POLL_INTERVAL if wakes else SITES_POLL_INTERVAL) and time.monotonic() < until:
        with fed.database.read() as connection:
            now = demand.endpoints_without_blocks(connection)
        for no in now - working:
            if no in wakes:
                wakes[no].set()
        working = now
    return working


class _ReconcilerThread(threading.Thread):
    """Runs the reconciler of one endpoint, so that a slow site does not delay the others.

    ``wake``: set it to start the next round at once.
    """

    def __init__(self, fed: Federation, site: sites.Site, stop: Stop):
        super().__init__(name=f"reconciler-{site.endpoint_name}", daemon=True)
        self._fed, self._site, self._stop_all = fed, site, stop
        self.wake = threading.Event()

    def run(self) -> None:
        """Run rounds until the process stops or the site is removed."""
        machine = None
        try:
            machine = open_machine(self._fed, self._site)
            reconciler = Reconciler(self._fed, machine, self._fed.settings.home / "wheelhouse")
            while not self._stop_all.is_set():
                self.wake.clear()
                try:
                    reconciler.run_once()
                except NotFound:
                    return
                except RETRYABLE as error:
                    log.warning("%s: provisioner: retrying: %s", self._site.endpoint_name, error)
                self.wake.wait(RECONCILE_INTERVAL)
        except Exception:
            # an error of one endpoint must not stop the others; the main loop restarts this thread
            log.exception("%s: unexpected error in the provisioner; restarting", self._site.endpoint_name)
            self._stop_all.wait(30.0)
        finally:
            if machine is not None:
                machine.close()


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
