"""The endpoint named ``local`` of an embedded federation.

It is an ordinary endpoint, configured and run with the ``umbel-endpoint`` command; this package never imports
``endpoint_worker``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from umbel.protocol.errors import NotFound
from umbel.system.files import write_private

from ..context import Federation
from ..registry import endpoints
from ..registry.users import User
from .files import StartError

NAME = "local"
#: Timeout of ``umbel-endpoint configure``, seconds.
CONFIGURE_TIMEOUT = 60.0


def command(*words: str) -> list[str]:
    """Return the command line of ``umbel-endpoint WORDS`` for this Python."""
    return [sys.executable, "-m", "endpoint_worker", *words]


def reconcile(fed: Federation, user: User, url: str) -> bool:
    """Return whether the home directory and the registry contain the same endpoint ``local``.

    If only one of them has it, it cannot work any more and is deleted, so that it can be configured again.
    ``url``: the service's present address. Raises Conflict if the directory was lost and the endpoint still
    has unfinished tasks.
    """
    folder = fed.settings.home / "endpoints" / NAME
    try:
        registered = endpoints.find(fed, user, NAME).id
    except NotFound:
        registered = None
    try:
        credentials = json.loads((folder / "credentials.json").read_text(encoding="utf-8"))
        if registered is not None and credentials["endpoint_id"] == registered:
            _update_addresses(fed, credentials, url, folder / "credentials.json")
            return True
    except (OSError, ValueError, KeyError, TypeError):
        pass  # the credentials are missing or invalid
    if registered is not None:
        endpoints.delete(fed, user, NAME)
    if folder.exists():
        shutil.rmtree(folder)
    return False


def _update_addresses(fed: Federation, credentials: dict[str, str], api_url: str, file: Path) -> None:
    """Write the current addresses of service and broker to the endpoint's credentials."""
    url = urlsplit(credentials["broker_url"])
    account, _, address = url.netloc.rpartition("@")
    present = fed.settings.broker_address or fed.broker.address
    broker_url = url._replace(netloc=f"{account}@{present}").geturl() if address != present else url.geturl()
    moved = {**credentials, "api_url": api_url, "broker_url": broker_url}
    if moved != credentials:
        write_private(file, json.dumps(moved, indent=1) + "\n")


def configure(workers: int, environ: Mapping[str, str], cwd: Path) -> None:
    """Register the endpoint through the API and write its directory. Raises StartError."""
    try:
        done = subprocess.run(
            command("configure", NAME, "--slots", str(workers)),
            env=dict(environ),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CONFIGURE_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise StartError(
            f"Endpoint '{NAME}' could not be configured within {CONFIGURE_TIMEOUT:g} s."
        ) from None
    if done.returncode != 0:
        output = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise StartError(f"Endpoint '{NAME}' could not be configured: {output}")


class ApiProbe:
    """Polls the API for the two conditions that the startup depends on."""

    def __init__(self, url: str, token: str):
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._token = token

    def is_ready(self, *, with_broker: bool) -> bool:
        """Return whether the API serves requests and its database, and the broker if asked, are available.

        Status 503 with "starting" is the answer as long as the startup that asks is not complete.
        """
        found = self._get("/health", 503)
        parts = ("database", "broker") if with_broker else ("database",)
        return found is not None and all(found.get(part) == "ok" for part in parts)

    def endpoint_online(self) -> bool:
        """Return whether the endpoint ``local`` has a live worker node."""
        found = self._get(f"/v1/endpoints/{NAME}")
        return found is not None and found.get("state") == "online"

    def _get(self, path: str, *more: int) -> dict[str, Any] | None:
        connection = HTTPConnection(*self._address, timeout=2.0)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._token}"})
            answer = connection.getresponse()
            data = answer.read()
            found = json.loads(data) if answer.status in (200, *more) else None
            return found if isinstance(found, dict) else None
        except (OSError, HTTPException, ValueError):
            return None  # not up yet, or just stopped; the caller polls again
        finally:
            connection.close()
