"""The start of an embedded federation: each step as soon as what it needs is there."""

from __future__ import annotations

import getpass
import json
import logging
import os
import shlex
import time
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

#: The whole start must be done within this time, seconds.
START_TIMEOUT = 60.0
#: A child that dies this often before the start is done makes the start fail.
START_DEATHS = 4
#: Exit code of a child that cannot be run as asked: trying again would not help.
REFUSED = 2

#: What a newcomer may type.
EXAMPLE = f"""\
from umbel import Executor
with Executor("{local_endpoint.NAME}") as executor:
    print(executor.submit(pow, 2, 10).result())
"""


@dataclass(frozen=True)
class Wanted:
    """Beside the service: slots of the endpoint ``local``; Flower's port (None: none), its buttons."""

    workers: int
    flower_port: int | None = None
    flower_controls: bool = False


class Start:
    """The steps of a start, each taken as soon as what it needs is there."""

    def __init__(self, settings: Settings, supervisor: Supervisor, url: str, options: Wanted):
        self.settings = settings
        self.supervisor = supervisor
        self.url = url
        self.options = options
        self.environ = components.environment(settings)
        self.done = False
        self._began = time.monotonic()
        self._configured = False
        self._announced = False

    def processes(self) -> None:
        """Start all that needs nothing else: everything but an endpoint that is not configured yet."""
        settings, supervisor = self.settings, self.supervisor
        if not settings.broker_url:
            spec = components.broker(settings)
            redis_server.check_port(settings.home)
            supervisor.add(spec)
        if not settings.database_url:
            # private also in a home that others may look into; what SQLite puts beside it follows suit
            os.close(append_private(settings.home / "ledger.sqlite"))
        # tables first: the services meet them ready
        Database(settings.database).create()
        for spec in components.services(settings, self.environ):
            supervisor.add(spec)
        if self.options.flower_port is not None:
            flower_access.prepare(settings.home)
            controls = self.options.flower_controls
            port = self.options.flower_port
            supervisor.add(components.flower(settings, self.environ, port, controls=controls))
        fed = open_federation(settings)
        try:
            self._admit(fed)
            self._identify(fed)
            if _has_sites(fed):
                supervisor.add(components.provisioner(settings, self.environ))
        finally:
            fed.close()
        if self._configured and self.options.workers:
            supervisor.add(components.endpoint(settings, self.environ, self.options.workers))

    def _admit(self, fed: Federation) -> None:
        """Make the accounts of the endpoints at the new broker before one of them knocks in vain and naps."""
        if not self.settings.broker_url:
            try:
                broker_accounts.ensure_endpoint_users(fed)
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
        write_private(file, json.dumps({"url": self.url, "token": token}) + "\n")
        self.api = local_endpoint.Api(self.url, token)
        try:
            self._configured = local_endpoint.configured(fed, user)
        except Conflict as error:
            # the service must run, or its tasks could not be cancelled
            log.error(
                "the folder of endpoint '%s' was lost, so it is not started: %s",
                local_endpoint.NAME,
                error.message,
            )
            self.options = replace(self.options, workers=0)

    def advance(self) -> None:
        """Take the next step if it can be taken. Raises StartError when the start has failed."""
        self._check()
        if not self._announced:
            if not self.api.answers():
                return
            self._announced = True
            if not self._configured and self.options.workers:
                local_endpoint.configure(self.options.workers, self.environ, components.ROOT)
                self.supervisor.add(components.endpoint(self.settings, self.environ, self.options.workers))
        if self.options.workers and not self.api.online():
            return
        self.done = True
        self._greet()

    def _check(self) -> None:
        for child in self.supervisor.children.values():
            if child.deaths >= START_DEATHS or child.status == REFUSED:
                raise StartError(
                    f"{child.spec.name} does not stay up; its log {child.log_file} ends:\n{_end_of(child)}"
                )
        if time.monotonic() - self._began > START_TIMEOUT:
            waiting = "endpoint" if self._announced else "web"
            child = self.supervisor.children[waiting]
            raise StartError(
                f"Not ready within {START_TIMEOUT:g} s, waiting for {waiting}; "
                f"its log {child.log_file} ends:\n{_end_of(child)}"
            )

    def _greet(self) -> None:
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
            lines.append(f"Programs and commands find it with: export UMBEL_HOME={shlex.quote(str(home))}")
        if options.workers:
            lines += ["Try:", *(f"  {line}" for line in EXAMPLE.splitlines())]
        lines.append("Ctrl-C stops it.")
        print("\n".join(lines), flush=True)


def _account() -> str:
    try:
        return getpass.getuser()[: users.MAX_NAME]
    except (KeyError, OSError):  # a user id without a name, as in containers
        return f"uid-{os.getuid()}"


def _end_of(child: Child) -> str:
    return log_files.tail(child.log_file)


def _has_sites(fed: Federation) -> bool:
    """Whether there is an elastic endpoint: a home without one is spared another process."""
    with fed.database.read() as connection:
        return bool(connection.execute(select(exists(select(sites.c.no)))).scalar())
