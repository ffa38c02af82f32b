"""Where the service is and who the caller is: environment, then ``client.json`` in UMBEL_HOME."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from ..protocol.errors import BadRequest, Unauthorized
from ..system.files import home_directory, write_private

ACCOUNT_FILE = "client.json"


@dataclass(frozen=True)
class Account:
    """Address of a service and the bearer token for it; the token is kept out of ``repr``."""

    url: str
    token: str | None = field(default=None, repr=False)


def find_account(
    url: str | None = None, token: str | None = None, home: str | os.PathLike[str] | None = None
) -> Account:
    """Find service and token: arguments, then UMBEL_API_URL and UMBEL_TOKEN, then the account file.

    A token of the file is used only for the address that the file names. Raises Unauthorized when no service
    is known, BadRequest when the address or the file cannot be understood.
    """
    url = url or os.environ.get("UMBEL_API_URL")
    token = token or os.environ.get("UMBEL_TOKEN")
    stored = None if url and token else _read(home_directory(home) / ACCOUNT_FILE)
    if stored is not None:
        if url is None:
            url = stored.url
        if token is None and stored.url.rstrip("/") == url.rstrip("/"):
            token = stored.token
    if url is None:
        raise Unauthorized(
            "no service is known: start one with 'make up', log in with 'umbel login URL', "
            "or set UMBEL_API_URL and UMBEL_TOKEN"
        )
    if not url.startswith(("http://", "https://")):
        raise BadRequest(f"{url!r} is no address of a service: it starts with http:// or https://")
    return Account(url.rstrip("/"), token)


def save_account(account: Account, home: str | os.PathLike[str] | None = None) -> Path:
    """Write the account file, readable by its owner only, in one step; return its path. Raises OSError."""
    folder = home_directory(home)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / ACCOUNT_FILE
    write_private(path, json.dumps({"url": account.url, "token": account.token}))
    return path


def _read(path: Path) -> Account | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Account(str(data["url"]), data.get("token"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadRequest(f"{path} is damaged: log in again with 'umbel login URL'") from None
