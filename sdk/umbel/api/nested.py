"""The account of a client: as in ``account``, or in a call that may submit, one for the running task."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

from ..protocol.errors import ServiceUnavailable
from ..system import call_access
from .account import Account, find_account
from .transport import HttpTransport, Request

#: Seconds for which the service may be unreachable when a call asks for its token.
PATIENCE = 30.0


def find(
    url: str | None = None, token: str | None = None, home: str | os.PathLike[str] | None = None
) -> Account:
    """Return address and token as ``find_account`` does, or in a call that may submit, a token for its task.

    An address in the arguments or in UMBEL_API_URL comes first. Raises what ``find_account`` raises,
    Forbidden if the task's submission does not allow it, and ServiceUnavailable.
    """
    access = call_access.current()
    if access is None or url or os.environ.get("UMBEL_API_URL"):
        return find_account(url, token, home)
    if not access.url:
        raise ServiceUnavailable(
            "the endpoint of this call does not know the address of the service: set 'api_url' in its "
            "endpoint.toml"
        )
    path = f"/v1/tasks/{quote(access.task_id(), safe='')}/token"
    transport = HttpTransport(find_account(access.url, access.grant), PATIENCE)
    try:
        answer: dict[str, Any] = transport.send(Request("POST", path, repeatable=True))
    except ServiceUnavailable as error:
        raise ServiceUnavailable(
            f"{error.message}. Calls of this endpoint use 'api_url' of its endpoint.toml, else the address "
            "of its registration",
            code=error.code,
            details=error.details,
        ) from error
    finally:
        transport.close()
    return Account(access.url.rstrip("/"), str(answer["token"]))
