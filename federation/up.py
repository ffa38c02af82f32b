"""``python -m federation up``: a whole federation on one machine, for as long as the command runs.

It starts broker, API, collector, sweeper and the endpoint ``local``, each as a process of its own, keeps them
running and stops them in order. Everything it keeps lies in the home, so that it continues where it was.
"""

from __future__ import annotations

import argparse
import errno
import getpass
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from umbel.protocol.errors import UmbelError, Unauthorized

from . import acl, components, embedded_redis, local_endpoint, logfiles, monitor_access, runstate
from .broker import BrokerError
from .context import Federation, open_federation
from .database import Database
from .files import PidLock, StartError, append_private, private_folder, write_private
from .registry import users
from .settings import load
from .supervise import Child, Supervisor

log = logging.getLogger(__name__)

#: The whole start must be done within this time, seconds.
START_TIMEOUT = 60.0
#: A child that dies this often before the start is done makes the start fail.
START_DEATHS = 4
#: Exit code of a child that cannot be run as asked: trying again would not help.
REFUSED = 2
#: How often the API is asked during the start, and log files are looked after later, seconds.
START_INTERVAL, IDLE_INTERVAL, ECHO_INTERVAL = 0.05, 60.0, 0.2


def main(argv: Sequence[str]) -> int:
    """Run the command with its arguments; return the exit code (2: it cannot be started as asked)."""
    options = _parser().parse_args(argv)
    try:
        return Up(options).run()
    except UmbelError as error:
        print(f"umbel: {error.message}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m federation up",
        description="Run a whole federation on this machine until Ctrl-C.",
    )
    parser.add_argument(
        "--home", type=Path, help="folder of everything it keeps (default: $UMBEL_HOME or ~/.umbel)"
    )
    parser.add_argument("--host", help="address that the API listens on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port of the API (default: 8642; 0: any free one)")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="worker slots of the endpoint 'local' (default: number of processors; 0: no such endpoint)",
    )
    parser.add_argument("--flower", action="store_true", help="show the Celery side in a browser")
    parser.add_argument(
        "--flower-port", type=int, default=5555, help="port of Flower (default: 5555; 0: any free one)"
    )
    parser.add_argument("--verbose", action="store_true", help="repeat what the processes log")
    return parser


class Up:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace):
        """Read the settings. Raises SettingsError."""
        self.options = options
        self.settings = load(options.home, host=options.host, port=options.port)
        self.home = self.settings.home
        self.lock = PidLock(self.home / "up.pid")

    def run(self) -> int:
        """Start everything, keep it running until asked to stop, stop everything. Raises StartError."""
        if self.options.workers < 0:
            raise StartError(f"--workers wants a number of slots, not {self.options.workers}.")
        private_folder(self.home)
        holder = self.lock.acquire()
        if holder is not None:
            raise StartError(
                f"Umbel already runs on {self.home} (pid {holder or 'unknown'}): use that one, stop it with "
                f"'kill {holder or 'PID'}', or name another folder with --home."
            )
        try:
            logs = private_folder(self.home / "logs")
            _log_to(logs / "up.log", self.options.verbose)
            for name in runstate.end_leftovers(self.home):
                log.warning("%s was left over by an earlier start and has been ended", name)
            self._choose_ports()
            with Supervisor(logs, self._changed) as self.supervisor:
                self._start_and_wait(logs)
            return 0
        finally:
            self.lock.release()

    def _choose_ports(self) -> None:
        settings = self.settings
        port = _listenable(settings.host, settings.port, "--port")
        self.settings = load(self.options.home, host=self.options.host, port=port)
        self.url = f"http://{_reachable(settings.host)}:{port}"
        if self.options.flower:
            self.options.flower_port = _listenable("127.0.0.1", self.options.flower_port, "--flower-port")

    def _start_and_wait(self, logs: Path) -> None:
        echo = logfiles.Echo(logs, sys.stdout) if self.options.verbose else None
        starting = Start(self)
        starting.processes()
        deadline = time.monotonic() + START_TIMEOUT
        while not self.supervisor.stopping:
            if not starting.done:
                starting.advance(deadline)
            self.supervisor.step(
                START_INTERVAL if not starting.done else ECHO_INTERVAL if echo else IDLE_INTERVAL
            )
            if echo is not None:
                echo.step()
            logfiles.trim(logs)
        log.info("stopping")

    def _changed(self) -> None:
        runstate.write_status(self.home, self.url, self.supervisor.children.values())


class Start:
    """The steps of a start, each taken as soon as what it needs is there."""

    def __init__(self, up: Up):
        self.up = up
        self.settings = up.settings
        self.supervisor = up.supervisor
        self.environ = components.environment(up.settings)
        self.done = False
        self._began = time.monotonic()
        self._configured = False
        self._announced = False

    def processes(self) -> None:
        """Start all that needs nothing else: everything but an endpoint that is not configured yet."""
        settings, supervisor = self.settings, self.supervisor
        if not settings.broker_url:
            spec = components.broker(settings)
            embedded_redis.check_port(settings.home)
            supervisor.add(spec)
        # tables first: the services meet them ready
        Database(settings.database).create()
        for spec in components.services(settings, self.environ):
            supervisor.add(spec)
        if self.up.options.flower:
            monitor_access.prepare(settings.home)
            supervisor.add(components.flower(settings, self.environ, self.up.options.flower_port))
        fed = open_federation(settings)
        try:
            self._admit(fed)
            self._identify(fed)
        finally:
            fed.close()
        if self._configured and self.up.options.workers:
            supervisor.add(components.endpoint(settings, self.environ, self.up.options.workers))

    def _admit(self, fed: Federation) -> None:
        """Make the accounts of the endpoints at the new broker before one of them knocks in vain and naps."""
        if not self.settings.broker_url:
            try:
                acl.ensure_endpoint_users(fed)
            except BrokerError as error:
                log.warning("the sweeper will make the accounts of the endpoints: %s", error)

    def _identify(self, fed: Federation) -> None:
        """Find or make the user of this account and her token; see whether the endpoint is known."""
        user = users.ensure_user(fed, _account())
        file = self.settings.home / "client.json"
        try:
            token = str(json.loads(file.read_text(encoding="utf-8"))["token"])
            users.authenticate(fed, token)
        except (OSError, ValueError, KeyError, TypeError, Unauthorized):
            token = users.create_token(fed, user, "made by 'up' on this machine")
        write_private(file, json.dumps({"url": self.up.url, "token": token}) + "\n")
        self.api = local_endpoint.Api(self.up.url, token)
        self._configured = local_endpoint.configured(fed, user)

    def advance(self, deadline: float) -> None:
        """Take the next step if it can be taken. Raises StartError when the start has failed."""
        self._check(deadline)
        if not self._announced:
            if not self.api.answers():
                return
            self._announced = True
            if not self._configured and self.up.options.workers:
                local_endpoint.configure(self.up.options.workers, self.environ, components.ROOT)
                self.supervisor.add(components.endpoint(self.settings, self.environ, self.up.options.workers))
        if self.up.options.workers and not self.api.online():
            return
        self.done = True
        self._greet()

    def _check(self, deadline: float) -> None:
        for child in self.supervisor.children.values():
            if child.deaths >= START_DEATHS or child.status == REFUSED:
                raise StartError(
                    f"{child.spec.name} does not stay up; its log {child.log_file} ends:\n{_end_of(child)}"
                )
        if time.monotonic() > deadline:
            waiting = "endpoint" if self._announced else "web"
            child = self.supervisor.children[waiting]
            raise StartError(
                f"Not ready within {START_TIMEOUT:g} s, waiting for {waiting}; "
                f"its log {child.log_file} ends:\n{_end_of(child)}"
            )

    def _greet(self) -> None:
        options, home = self.up.options, self.settings.home
        lines = [
            f"Umbel is ready after {time.monotonic() - self._began:.1f} s.",
            f"  API       {self.up.url}",
        ]
        lines.append(f"  API docs  {self.up.url}/docs")
        if options.workers:
            slots = "1 slot" if options.workers == 1 else f"{options.workers} slots"
            lines.append(f"  Endpoint  {local_endpoint.NAME} ({slots})")
        if options.flower:
            lines.append(f"  Flower    http://127.0.0.1:{options.flower_port}, {monitor_access.hint(home)}")
        lines.append(f"  Home      {home} (logs in logs/, token in client.json)")
        prefix = "" if home == Path.home() / ".umbel" else f"UMBEL_HOME={home} "
        lines.append(f"Try: {prefix}umbel run platform:node --endpoint {local_endpoint.NAME}")
        lines.append("or in Python, with the same environment:" if prefix else "or in Python:")
        lines.append("  from umbel import Executor")
        lines.append(f'  with Executor("{local_endpoint.NAME}") as executor:')
        lines.append("      print(executor.submit(pow, 2, 10).result())")
        lines.append("Ctrl-C stops it.")
        print("\n".join(lines), flush=True)


def _account() -> str:
    try:
        return getpass.getuser()[: users.MAX_NAME]
    except (KeyError, OSError):  # a user id without a name, as in containers
        return f"uid-{os.getuid()}"


def _end_of(child: Child) -> str:
    return logfiles.tail(child.log_file)


def _reachable(host: str) -> str:
    """The address for clients on this machine of a server that listens on ``host``."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _listenable(host: str, port: int, flag: str) -> int:
    """Return ``port``, or a free one for 0, when a server can listen there. Raises StartError."""
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][
            0
        ]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise StartError(
                f"Port {port} on {host} is used by another program: choose another with {flag}."
            ) from None
        reason = getattr(error, "strerror", None) or error
        raise StartError(f"Cannot listen on {host}, port {port}: {reason}.") from None


def _log_to(file: Path, verbose: bool) -> None:
    os.close(append_private(file))
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s",
        level=logging.INFO,
        handlers=[logging.FileHandler(file), *([] if verbose else [logging.StreamHandler()])],
        force=True,
    )
