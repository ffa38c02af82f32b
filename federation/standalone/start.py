"""The startup of an embedded federation: each step runs as soon as its requirements are met."""

from __future__ import annotations

import getpass
import json
import logging
import os
import shlex
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import exists, select

from umbel.protocol.errors import Conflict, Unauthorized
from umbel.system.files import append_private, write_private

from ..broker.client import BrokerError
from ..config.settings import Settings
from ..context import Federation, open_federation
from ..db.engine import Database
from ..db.tables import sites
from ..registry import broker_accounts, users
from . import components, flower_access, local_endpoint, log_files, redis_server
from .files import StartError
from .supervisor import Child, Supervisor

log = logging.getLogger(__name__)

#: Timeout of the whole startup, seconds.
START_TIMEOUT = 60.0
#: The startup fails if a child exits this often before it is complete.
MAX_START_EXITS = 4
#: Exit code of a child with invalid settings or arguments; restarting it would not help.
USAGE_ERROR = 2

#: A first program, printed at the end of the startup.
EXAMPLE = f"""\
from umbel import Executor
with Executor("{local_endpoint.NAME}") as executor:
    print(executor.submit(pow, 2, 10).result())
"""


@dataclass(frozen=True)
class StartOptions:
    """``workers``: slots of the endpoint ``local``; Flower's port (None: no Flower) and its controls."""

    workers: int
    flower_port: int | None = None
    flower_controls: bool = False


class Startup:
    """Runs the steps of a startup, each as soon as its requirements are met; then calls ``ready``."""

    def __init__(
        self,
        settings: Settings,
        supervisor: Supervisor,
        url: str,
        options: StartOptions,
        ready: Callable[[], None] = lambda: None,
    ):
        self.settings = settings
        self.supervisor = supervisor
        self.url = url
        self.options = options
        self._ready = ready
        self.environ = components.environment(settings)
        self.done = False
        self._began = time.monotonic()
        self._configured = False
        self._api_ready = False

    def start_processes(self) -> None:
        """Start all processes except an endpoint that is not configured yet, which needs the API."""
        settings, supervisor = self.settings, self.supervisor
        if not settings.broker_url:
            spec = components.broker(settings)
            redis_server.check_port(settings.home)
            supervisor.add(spec)
        if not settings.database_url:
            # private even if the home directory is not; SQLite uses the same mode for its other files
            os.close(append_private(settings.home / "ledger.sqlite"))
        # before the services, so that they find the schema up to date
        with closing(Database(settings.database, busy_timeout=settings.busy_timeout)) as database:
            database.create()
        for spec in components.services(settings, self.environ):
            supervisor.add(spec)
        if self.options.flower_port is not None:
            flower_access.prepare(settings.home)
            controls = self.options.flower_controls
            port = self.options.flower_port
            supervisor.add(components.flower(settings, self.environ, port, controls=controls))
        fed = open_federation(settings)
        try:
            self._create_broker_accounts(fed)
            self._prepare_user(fed)
            if _has_sites(fed):
                supervisor.add(components.provisioner(settings, self.environ))
        finally:
            fed.close()
        if self._configured and self.options.workers:
            supervisor.add(components.endpoint(settings, self.environ, self.options.workers))

    def _create_broker_accounts(self, fed: Federation) -> None:
        """Create the endpoints' accounts on the new broker, before endpoints try to connect and back off."""
        if not self.settings.broker_url:
            try:
                broker_accounts.ensure_endpoint_users(fed)
            except BrokerError as error:
                log.warning("broker unreachable; the sweeper will create the endpoint accounts: %s", error)

    def _prepare_user(self, fed: Federation) -> None:
        """Find or create the user of this system account and a token; check whether the endpoint exists."""
        user = users.ensure_user(fed, _account_name())
        file = self.settings.home / "client.json"
        try:
            token = str(json.loads(file.read_text(encoding="utf-8"))["token"])
            users.authenticate(fed, token)
        except (OSError, ValueError, KeyError, TypeError, Unauthorized):
            token = users.create_token(fed, user, "created by 'up' on this machine")
        write_private(file, json.dumps({"url": self.url, "token": token}) + "\n")
        self.api = local_endpoint.ApiProbe(self.url, token)
        try:
            self._configured = local_endpoint.reconcile(fed, user, self.url)
        except Conflict as error:
            # the service must run, so that the endpoint's tasks can be cancelled
            log.error(
                "endpoint '%s': its directory was lost, so it is not started: %s",
                local_endpoint.NAME,
                error.message,
            )
            self.options = replace(self.options, workers=0)

    def advance(self) -> None:
        """Run the next step if possible. Raises StartError if the startup has failed."""
        self._check()
        if not self._api_ready:
            configures = not self._configured and bool(self.options.workers)
            # an endpoint is registered at the broker, too
            if not self.api.is_ready(with_broker=configures):
                return
            self._api_ready = True
            if configures:
                local_endpoint.configure(self.options.workers, self.environ, components.ROOT)
                self.supervisor.add(components.endpoint(self.settings, self.environ, self.options.workers))
        if self.options.workers and not self.api.endpoint_online():
            return
        self.done = True
        self._ready()
        self._print_summary()

    def _check(self) -> None:
        for child in self.supervisor.children.values():
            if child.exits >= MAX_START_EXITS or child.status == USAGE_ERROR:
                raise StartError(
                    f"Process '{child.spec.name}' failed during startup. "
                    f"End of its log {child.log_file}:\n{_log_tail(child)}"
                )
        if time.monotonic() - self._began > START_TIMEOUT:
            waiting = "endpoint" if self._api_ready else "web"
            child = self.supervisor.children[waiting]
            raise StartError(
                f"Process '{waiting}' was not ready within {START_TIMEOUT:g} s. "
                f"End of its log {child.log_file}:\n{_log_tail(child)}"
            )

    def _print_summary(self) -> None:
        options, home = self.options, self.settings.home
        lines = [
            f"Umbel is ready after {time.monotonic() - self._began:.1f} s.",
            f"  API       {self.url}",
        ]
        lines.append(f"  API docs  {self.url}/docs")
        lines.append(f"  Packages  {self.url}/packages/ (install the SDK on other machines from here)")
        if options.workers:
            slots = "1 slot" if options.workers == 1 else f"{options.workers} slots"
            lines.append(f"  Endpoint  {local_endpoint.NAME} ({slots})")
        if options.flower_port is not None:
            lines.append(f"  Flower    http://127.0.0.1:{options.flower_port}, {flower_access.hint(home)}")
        lines.append(f"  Home      {home} (logs in logs/, token in client.json)")
        if home != Path.home() / ".umbel":
            lines.append(f"To use it from programs and commands: export UMBEL_HOME={shlex.quote(str(home))}")
        if options.workers:
            lines += ["Try:", *(f"  {line}" for line in EXAMPLE.splitlines())]
        lines.append("Press Ctrl-C to stop.")
        print("\n".join(lines), flush=True)


def _account_name() -> str:
    try:
        return getpass.getuser()[: users.MAX_NAME]
    except (KeyError, OSError):  # a user id without a name, as in containers
        return f"uid-{os.getuid()}"


def _log_tail(child: Child) -> str:
    return log_files.tail(child.log_file)


def _has_sites(fed: Federation) -> bool:
    """Return whether there is an elastic endpoint; without one the provisioner is not started."""
    with fed.database.read() as connection:
        return bool(connection.execute(select(exists(select(sites.c.no)))).scalar())
