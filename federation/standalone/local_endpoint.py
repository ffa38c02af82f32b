"""The endpoint named ``local`` that an embedded federation brings with it.

It is an endpoint like any other, configured and run by the ``umbel-endpoint`` command; this layer never
imports it.
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
#: How long ``umbel-endpoint configure`` may take, seconds.
CONFIGURE_TIMEOUT = 60.0


def command(*words: str) -> list[str]:
    """The command line ``umbel-endpoint WORDS`` for this Python, wherever the command is installed."""
    return [sys.executable, "-m", "endpoint_worker", *words]


def configured(fed: Federation, user: User) -> bool:
    """Tell whether home and registry know the same endpoint ``local``; remove what only one of them knows.

    An endpoint whose other half was lost can never work again: its name is freed to be configured anew.
    Raises Conflict when the folder was lost and the endpoint still has unfinished tasks.
    """
    folder = fed.settings.home / "endpoints" / NAME
    try:
        registered = endpoints.find(fed, user, NAME).id
    except NotFound:
        registered = None
    try:
        kept = json.loads((folder / "credentials.json").read_text(encoding="utf-8"))
        if registered is not None and kept["endpoint_id"] == registered:
            _lead_to_broker(fed, kept, folder / "credentials.json")
            return True
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no credentials, or none that could be used
    if registered is not None:
        endpoints.delete(fed, user, NAME)
    if folder.exists():
        shutil.rmtree(folder)
    return False


def _lead_to_broker(fed: Federation, credentials: dict[str, str], file: Path) -> None:
    """Write the broker's present address into the endpoint's credentials if the broker has moved."""
    url = urlsplit(credentials["broker_url"])
    account, _, address = url.netloc.rpartition("@")
    present = fed.settings.broker_address or fed.broker.address
    if address != present:
        moved = url._replace(netloc=f"{account}@{present}").geturl()
        write_private(file, json.dumps({**credentials, "broker_url": moved}, indent=1) + "\n")


def configure(workers: int, environ: Mapping[str, str], cwd: Path) -> None:
    """Have the endpoint registered over the API and its folder written. Raises StartError."""
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
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise StartError(f"Endpoint '{NAME}' could not be configured: {said}")


class Api:
    """Asks the running API the two things that the start depends on."""

    def __init__(self, url: str, token: str):
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._token = token

    def answers(self) -> bool:
        """True when the API serves requests and its database and broker are there."""
        return self._get("/health") is not None

    def online(self) -> bool:
        """True when the endpoint ``local`` has a live worker node."""
        found = self._get(f"/v1/endpoints/{NAME}")
        return found is not None and found.get("state") == "online"

    def _get(self, path: str) -> dict[str, Any] | None:
        connection = HTTPConnection(*self._address, timeout=2.0)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._token}"})
            answer = connection.getresponse()
            data = answer.read()
            return json.loads(data) if answer.status == 200 else None
        except (OSError, HTTPException, ValueError):
            return None  # not up yet, or just gone: the caller asks again
        finally:
            connection.close()
