"""``python -m federation provision``: keep the blocks of all elastic endpoints, or try a policy out."""

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
from ...packages import build
from ...process import Stop, run_process
from ..planning import demand
from ..reconciler import TICK, Keeper
from ..records import sites
from ..simulation import simulate
from ..site.machine import open_machine
from . import manage

log = logging.getLogger(__name__)

#: Seconds between two looks for endpoints that have come or gone.
LOOK = 3.0
#: Seconds between two looks for work at endpoints without blocks: one small question for all of them.
GLANCE = 0.2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, or serve until SIGTERM; return the exit code."""
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
    """Keep all elastic endpoints until ``stop``; one process of a home does it at a time."""
    logging.getLogger("paramiko").setLevel(logging.WARNING)
    lock = os.open(fed.settings.home / "provision.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                log.info("another provisioner runs; this one takes over when it ends")
                if stop.wait(LOOK):
                    return
        _keep_all(fed, stop)
    finally:
        os.close(lock)


def _keep_all(fed: Federation, stop: Stop) -> None:
    keepers: dict[int, _Loop] = {}
    working: set[int] = set()
    while not stop.is_set():
        found = sites.all_sites(fed)
        for site in found:
            keeper = keepers.get(site.endpoint_no)
            if keeper is None or not keeper.is_alive():
                keeper = keepers[site.endpoint_no] = _Loop(fed, site, stop)
                keeper.start()
        working = glance(
            fed, stop, {site.endpoint_no: keepers[site.endpoint_no].wake for site in found}, working
        )
    for keeper in keepers.values():
        keeper.wake.set()
    for keeper in keepers.values():
        keeper.join(10.0)


def glance(fed: Federation, stop: Stop, wakes: Mapping[int, threading.Event], working: set[int]) -> set[int]:
    """Look for ``LOOK`` seconds for endpoints to which work comes without a block there; wake their keepers.

    ``working``: endpoints where it was seen before; those where it is now are returned. Users wait for these
    first blocks; where there are blocks, the next turn is time enough.
    """
    until = time.monotonic() + LOOK
    while not stop.wait(GLANCE if wakes else LOOK) and time.monotonic() < until:
        with fed.database.read() as connection:
            now = demand.without_blocks(connection)
        for no in now - working:
            if no in wakes:
                wakes[no].set()
        working = now
    return working


class _Loop(threading.Thread):
    """One endpoint's keeper, in a thread of its own: a slow site keeps no other waiting.

    ``wake``: set when there is work that should not wait for the next turn.
    """

    def __init__(self, fed: Federation, site: sites.Site, stop: Stop):
        super().__init__(name=f"keeper-{site.endpoint_name}", daemon=True)
        self._fed, self._site, self._stop_all = fed, site, stop
        self.wake = threading.Event()

    def run(self) -> None:
        """Take turns until all stop or the site is removed."""
        machine = None
        try:
            machine = open_machine(self._fed, self._site)
            keeper = Keeper(self._fed, machine, self._fed.settings.home / "wheelhouse")
            while not self._stop_all.is_set():
                self.wake.clear()
                try:
                    keeper.turn()
                except NotFound:
                    return
                self.wake.wait(TICK)
        except Exception:
            # a fault with one endpoint must not end the others; the main loop starts this one again
            log.exception("endpoint %s: the provisioner stumbled and begins anew", self._site.endpoint_name)
            self._stop_all.wait(30.0)
        finally:
            if machine is not None:
                machine.close()


def wheelhouse(argv: Sequence[str]) -> int:
    """``provision wheelhouse FOLDER``: fetch and build every wheel that a site needs."""
    parser = argparse.ArgumentParser(
        prog="python -m federation provision wheelhouse", description=wheelhouse.__doc__
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(argv).folder
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(folder)]
    try:
        own = build.build(folder)
    except build.BuildError as error:
        print(f"umbel: {error.message}", file=sys.stderr)
        return 1
    # the last ones are wanted by older Pythons than this one, which a site may have
    return subprocess.run([*pip, f"{own.resolve()}[endpoint]", "pip", "async-timeout", "tomli"]).returncode
