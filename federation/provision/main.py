"""``python -m federation provision``: keep the blocks of all elastic endpoints, or try a policy out."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from umbel.protocol.errors import NotFound

from ..context import Federation
from ..process import Stop, run_process
from . import manage, simulate, sites
from .keeper import TICK, Keeper
from .machine import open_machine

log = logging.getLogger(__name__)

#: Seconds between two looks for endpoints that have come or gone.
LOOK = 3.0
ROOT = Path(__file__).resolve().parents[2]


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
    threads: dict[int, threading.Thread] = {}
    while not stop.is_set():
        for site in sites.all_sites(fed):
            thread = threads.get(site.endpoint_no)
            if thread is None or not thread.is_alive():
                thread = threading.Thread(target=_keep, args=(fed, site, stop), daemon=True)
                thread.start()
                threads[site.endpoint_no] = thread
        stop.wait(LOOK)
    for thread in threads.values():
        thread.join(10.0)


def _keep(fed: Federation, site: sites.Site, stop: Stop) -> None:
    """One endpoint, in a thread of its own: a slow site keeps no other waiting."""
    machine = None
    try:
        machine = open_machine(fed, site)
        keeper = Keeper(fed, machine, fed.settings.home / "wheelhouse")
        while not stop.is_set():
            try:
                keeper.turn()
            except NotFound:
                return
            stop.wait(TICK)
    except Exception:
        # a fault with one endpoint must not end the others; the main loop starts this one again
        log.exception("endpoint %s: the provisioner stumbled and begins anew", site.endpoint_name)
        stop.wait(30.0)
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
    # the last ones are wanted by older Pythons than this one, which a site may have
    return subprocess.run([*pip, f"{ROOT}[endpoint]", "pip", "async-timeout", "tomli"]).returncode
