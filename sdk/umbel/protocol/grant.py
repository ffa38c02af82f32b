"""Grants: an endpoint's signed statement that a bundle runs there, which its calls exchange for a token.

``umg_<endpoint id>.<envelope>``; the envelope (base64) is signed with the endpoint's key, names the bundle
and has no body. A grant is not a token: the service issues one only while the task is assigned to that
bundle, and only for submissions with the option ``nested``.
"""

from __future__ import annotations

import base64
import binascii

from . import checks, names
from .envelope import Signer, Verifier
from .errors import ProtocolError
from .limits import BUNDLE_LIFETIME
from .messages import SERVICE

PREFIX = "umg_"
#: Longest grant, characters.
MAX_GRANT = 1024


def write(signer: Signer, endpoint: str, bundle: str, now: float) -> str:
    """Return the grant of a bundle, signed with the key of its endpoint."""
    header = {"typ": "grant", "aud": SERVICE, "iat": now, "exp": now + BUNDLE_LIFETIME}
    head, _ = signer.seal({**header, "endpoint": endpoint, "bundle": bundle})
    return f"{PREFIX}{endpoint}.{base64.urlsafe_b64encode(head).decode()}"


def endpoint_of(grant: str) -> str:
    """Return the id of the endpoint that a grant claims to be from. Raises ProtocolError."""
    endpoint = grant[len(PREFIX) :].partition(".")[0]
    if not grant.startswith(PREFIX) or len(grant) > MAX_GRANT or not names.is_id(endpoint):
        raise ProtocolError("this is not a grant")
    return endpoint


def read(verifier: Verifier, grant: str, now: float) -> str:
    """Verify a grant with the key of the endpoint that it names; return the id of its bundle.

    Raises ProtocolError.
    """
    endpoint = endpoint_of(grant)
    try:
        head = base64.b64decode(grant.partition(".")[2].encode("ascii"), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise ProtocolError("the grant is not base64") from None
    header = verifier.open_head(head, typ="grant", aud=SERVICE, now=now)
    try:
        if header["endpoint"] != endpoint:
            raise ProtocolError("the grant names another endpoint than its signature")
        return checks.identifier(header["bundle"])
    except (KeyError, ValueError) as error:
        raise ProtocolError(f"a field of the grant is missing or not valid: {error}") from None
