"""Address of the service and token of the user: from the environment, else ``client.json`` in UMBEL_HOME."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from ..protocol.errors import BadRequest, Unauthorized
from ..system.files import home_directory, write_private

ACCOUNT_FILE = "client.json"
#: Variable that is set in calls, which run without the user's credentials (but see ``nested``).
CALL_VARIABLE = "UMBEL_WORK"


@dataclass(frozen=True)
class Account:
    """Address of a service and the bearer token for it. ``repr`` does not show the token."""

    url: str
    token: str | None = field(default=None, repr=False)


def find_account(
    url: str | None = None, token: str | None = None, home: str | os.PathLike[str] | None = None
) -> Account:
    """Return address and token from the arguments, else UMBEL_API_URL and UMBEL_TOKEN, else the account file.

    The file's token is used only for the file's address. Raises Unauthorized when no address is found,
    BadRequest when the address or the file is not valid.
    """
    url = url or os.environ.get("UMBEL_API_URL")
    token = token or os.environ.get("UMBEL_TOKEN")
    stored = None if url and token else _read(home_directory(home) / ACCOUNT_FILE)
    if stored is not None:
        if url is None:
            url = stored.url
        if token is None and stored.url.rstrip("/") == url.rstrip("/"):
            token = stored.token
    if url is None and CALL_VARIABLE in os.environ:
        raise Unauthorized(
            "this call has no access to the service: return what the next calls need, and submit them "
            "where this call was submitted. To let it submit, set 'nested_submit = true' in the file "
            "endpoint.toml of its endpoint, and submit it with Executor(..., nested=True)"
        )
    if url is None:
        raise Unauthorized(
            "no address of a service is set: start a service with 'make up', log in with 'umbel login URL', "
            "or set UMBEL_API_URL and UMBEL_TOKEN"
        )
    if not url.startswith(("http://", "https://")):
        raise BadRequest(f"{url!r} is not the address of a service: it must start with http:// or https://")
    return Account(url.rstrip("/"), token)


def save_account(account: Account, home: str | os.PathLike[str] | None = None) -> Path:
    """Write the account file in one step, with mode 0600; return its path. Raises OSError."""
    folder = home_directory(home)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / ACCOUNT_FILE
    write_private(path, json.dumps({"url": account.url, "token": account.token}))
    return path


def explain(error: Unauthorized, account: Account) -> Unauthorized:
    """Return the error of a rejected request with advice for people, not for programs that send headers."""
    if account.token and "Authorization" not in error.message:
        return error
    reason = "rejects the malformed token" if account.token else "needs a token, and none is stored for it"
    return Unauthorized(
        f"the service at {account.url} {reason}: log in with 'umbel login {account.url}', or set "
        "UMBEL_TOKEN; 'make up' logs in to the service that it starts",
        code=error.code,
        details=error.details,
    )


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
