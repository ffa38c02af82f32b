"""``python -m federation up``: a complete federation on one machine, for as long as the command runs.

It starts broker, API, collector, sweeper and the endpoint ``local`` as separate processes, keeps them running
and stops them in order. All data is in the home directory, so a restarted federation continues where it
stopped.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import socket
import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from umbel.protocol.errors import UmbelError
from umbel.system.files import append_private
from umbel.system.log_file import LogFile

from ..config.settings import load
from . import log_files, run_state
from .files import PidLock, StartError, private_folder, starting_file
from .start import StartOptions, Startup
from .supervisor import Supervisor

log = logging.getLogger(__name__)

#: Intervals, seconds: polling the API during startup, trimming log files, following log files, writing a
#: status file that could not be written.
START_INTERVAL, IDLE_INTERVAL, FOLLOW_INTERVAL, RETRY_INTERVAL = 0.05, 60.0, 0.2, 1.0


def main(argv: Sequence[str]) -> int:
    """Run the command with its arguments; return the exit code (2: it cannot be started)."""
    options = _parser().parse_args(argv)
    try:
        return Up(options).run()
    except UmbelError as error:
        reason = error.message
    except OSError as error:
        reason = f"{error.filename or 'The operating system'}: {error.strerror}."
    except (SQLAlchemyError, sqlite3.Error) as error:  # for example, the file is not a database
        reason = f"Cannot use the database: {getattr(error, 'orig', None) or error}."
    print(f"umbel: {reason}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m federation up",
        description="Run a complete federation on this machine until Ctrl-C.",
    )
    parser.add_argument("--home", type=Path, help="directory for all data (default: $UMBEL_HOME or ~/.umbel)")
    parser.add_argument("--host", help="address that the API listens on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port of the API (default: 8642; 0: any free port)")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="worker slots of the endpoint 'local' (default: number of processors; 0: no local endpoint)",
    )
    parser.add_argument(
        "--flower", action="store_true", help="run Flower, a web page that shows Celery workers and messages"
    )
    parser.add_argument(
        "--flower-port", type=int, default=5555, help="port of Flower (default: 5555; 0: any free port)"
    )
    parser.add_argument(
        "--flower-controls",
        action="store_true",
        help="enable Flower's buttons that control workers (default: read-only)",
    )
    parser.add_argument("--verbose", action="store_true", help="print the log lines of all processes")
    return parser


class Up:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace):
        """Read the settings. Raises SettingsError."""
        self.options = options
        self.settings = load(options.home, host=options.host, port=options.port)
        self.home = self.settings.home
        self.lock = PidLock(self.home / "up.pid")
        # until the startup is complete; /health reads it
        self.starting = PidLock(starting_file(self.home))
        # whether the status file is out of date, because it could not be written
        self._status_due = False

    def run(self) -> int:
        """Start all processes, keep them running until a stop signal, stop them. Raises StartError."""
        if self.options.workers < 0:
            raise StartError(f"--workers must be a non-negative integer, got {self.options.workers}.")
        private_folder(self.home)
        owner = self.lock.acquire()
        if owner is not None:
            raise StartError(
                f"Umbel is already running in {self.home} (pid {owner or 'unknown'}): use it, stop it with "
                f"'kill {owner or 'PID'}', or choose another directory with --home."
            )
        try:
            logs = private_folder(self.home / "logs")
            _log_to(logs / "up.log", self.options.verbose)
            for name in run_state.end_leftovers(self.home):
                log.warning("%s was left running by an earlier start and has been ended", name)
            self._choose_ports()
            with Supervisor(logs, self._changed) as self.supervisor:
                self._start_and_wait(logs)
            return 0
        finally:
            self.starting.release()
            self.lock.release()

    def _choose_ports(self) -> None:
        settings = self.settings
        port = _usable_port(settings.host, settings.port, "--port")
        self.settings = load(self.options.home, host=self.options.host, port=port)
        self.url = f"http://{_client_host(settings.host)}:{port}"
        self.options.flower = self.options.flower or self.options.flower_controls
        if self.options.flower:
            self.options.flower_port = _usable_port("127.0.0.1", self.options.flower_port, "--flower-port")

    def _start_and_wait(self, logs: Path) -> None:
        follower = log_files.LogFollower(logs, sys.stdout) if self.options.verbose else None
        options = self.options
        flower_port = options.flower_port if options.flower else None
        start_options = StartOptions(options.workers, flower_port, options.flower_controls)
        startup = Startup(self.settings, self.supervisor, self.url, start_options, self.starting.release)
        private_folder(starting_file(self.home).parent)
        self.starting.acquire()
        startup.start_processes()
        while not self.supervisor.stopping:
            if not startup.done:
                startup.advance()
            interval = START_INTERVAL if not startup.done else FOLLOW_INTERVAL if follower else IDLE_INTERVAL
            self.supervisor.step(min(interval, RETRY_INTERVAL) if self._status_due else interval)
            if self._status_due:
                self._changed()
            if follower is not None:
                follower.step()
            self._log_os_errors(lambda: log_files.trim(logs))
        log.info("stopping")

    def _changed(self) -> None:
        """Write the status file; if that fails, it is due until it succeeds."""
        try:
            run_state.write_status(self.home, self.url, self.supervisor.children.values())
            self._status_due = False
        except OSError as error:
            if not self._status_due:
                log.error("%s: %s; trying again", error.filename, error.strerror)
            self._status_due = True

    @staticmethod
    def _log_os_errors(work: Callable[[], object]) -> None:
        """Call ``work`` and log OSError: a full disk must not stop the running processes."""
        try:
            work()
        except OSError as error:
            log.error("%s: %s", error.filename, error.strerror)


def _client_host(host: str) -> str:
    """Return the address at which local clients reach a server that listens on ``host``."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _usable_port(host: str, port: int, flag: str) -> int:
    """Return ``port``, or a free port for 0, if a server can listen on it. Raises StartError."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        with socket.socket(found[0][0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise StartError(
                f"Port {port} on {host} is used by another program: choose another port with {flag}."
            ) from None
        reason = getattr(error, "strerror", None) or error
        raise StartError(
            f"Cannot listen on {host}, port {port}: {reason}. Choose another host, or use {flag}."
        ) from None


def _log_to(file: Path, verbose: bool) -> None:
    os.close(append_private(file))
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s",
        level=logging.INFO,
        handlers=[LogFile(file), *([] if verbose else [logging.StreamHandler()])],
        force=True,
    )
    # Alembic logs every plug-in at level INFO
    logging.getLogger("alembic").setLevel(logging.WARNING)
