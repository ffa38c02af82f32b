"""Registration with the service: the only time an endpoint uses its API."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from umbel.protocol.envelope import Signer, new_private_key
from umbel.protocol.errors import ServiceError, ServiceUnavailable, service_error

from ..config.directory import Credentials, DirectoryError, EndpointDirectory

#: Seconds to wait for a response of the API.
TIMEOUT = 30.0


@dataclass(frozen=True)
class Login:
    """Address and credentials for the service. ``code``: valid for one registration, instead of the token."""

    url: str
    token: str
    code: str = ""


def find_login(home: Path) -> Login:
    """Return the login from ``UMBEL_API_URL`` and ``UMBEL_TOKEN``, or from ``client.json`` of the home.

    With a one-time code in ``UMBEL_CODE`` no token is needed. Raises DirectoryError if there is no login.
    """
    file = home / "client.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = {}
    except (OSError, ValueError) as error:
        raise DirectoryError(f"{file} cannot be read: {error}") from None
    url = os.environ.get("UMBEL_API_URL") or known.get("url")
    token = os.environ.get("UMBEL_TOKEN") or known.get("token")
    code = os.environ.get("UMBEL_CODE", "")
    if not url or not (token or code):
        raise DirectoryError(
            "no service address or token found: set UMBEL_API_URL and UMBEL_TOKEN "
            f"(or UMBEL_CODE), or put the service's token file at {file}"
        )
    return Login(str(url).rstrip("/"), str(token or ""), code)


def other_address(directory: EndpointDirectory, known: str) -> str:
    """Return the service's address in the environment or in this home, or else the known one.

    It may differ from that in the credentials, which a worker does not use.
    """
    try:
        return find_login(directory.path.parents[1]).url
    except DirectoryError:
        return known


def register(directory: EndpointDirectory, login: Login, settings: str, description: str = "") -> Credentials:
    """Create a key, register the endpoint and write its directory.

    Raises ServiceError if the service rejects the request, DirectoryError if the directory cannot be written.
    """
    if directory.exists():
        raise DirectoryError(
            f"endpoint '{directory.name}' is already configured in {directory.path}: edit its endpoint.toml, "
            f"or start over with 'umbel-endpoint delete {directory.name}'"
        )
    _check_writable(directory.path)
    key = new_private_key()
    request: dict[str, Any] = {
        "name": directory.name,
        "public_key": base64.b64encode(Signer(key).public_key).decode(),
    }
    if description:
        request["description"] = description
    answer = ask(login, "POST", "/v1/registrations" if login.code else "/v1/endpoints", request)
    try:
        given = answer["credentials"]
        credentials = Credentials(
            str(given["endpoint_id"]),
            directory.name,
            login.url,
            str(given["broker_url"]),
            base64.b64decode(given["service_key"], validate=True),
        )
    except (KeyError, TypeError, ValueError):
        raise ServiceUnavailable(
            f"{login.url} responded without credentials: is it an Umbel service?"
        ) from None
    try:
        directory.write(credentials, key, settings)
    except OSError as error:
        raise DirectoryError(f"{directory.path} cannot be written: {error.strerror}") from None
    return credentials


def unregister(endpoint_id: str, login: Login) -> None:
    """Delete an endpoint at the service; ignore that it does not exist. Raises ServiceError."""
    try:
        ask(login, "DELETE", f"/v1/endpoints/{endpoint_id}", None)
    except ServiceError as error:
        if error.code != "ENDPOINT_NOT_FOUND":
            raise


def _check_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = directory / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise DirectoryError(f"{directory} cannot be written: {error.strerror}") from None


def ask(login: Login, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    """Send one request to the service; return its response. Raises ServiceError."""
    bearer = login.code or login.token
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
    try:
        with urllib3.PoolManager(timeout=TIMEOUT, retries=False) as http:
            answer = http.request(
                method, login.url + path, headers=headers, body=None if body is None else json.dumps(body)
            )
            status, data = answer.status, answer.data
    except urllib3.exceptions.HTTPError as error:
        raise ServiceUnavailable(f"the service at {login.url} cannot be reached: {error}") from None
    try:
        record = json.loads(data) if data else {}
    except ValueError:
        record = {}
    if not isinstance(record, dict):
        record = {}
    if status >= 400:
        message = str(record.get("message") or f"the service responded with status {status}")
        raise service_error(status, str(record.get("code") or "INTERNAL_ERROR"), message)
    return record
