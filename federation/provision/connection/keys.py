"""The SSH key pair that the service generates for a site, and its ``authorized_keys`` line."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from umbel.protocol.names import is_id
from umbel.system.files import create_private

from .shell import SiteError


def key_file(home: Path, endpoint_id: str) -> Path:
    """Return the path of the private key for an endpoint's site."""
    assert is_id(endpoint_id), endpoint_id
    return home / "keys" / "sites" / endpoint_id


def site_key(home: Path, endpoint_id: str) -> paramiko.PKey:
    """Return the site's private key, generated at first use (Ed25519, mode 0600). Raises SiteError."""
    file = key_file(home, endpoint_id)
    create_private(file, _new)
    return load_key(file)


def load_key(file: Path) -> paramiko.PKey:
    """Read a private key of any kind. Raises SiteError."""
    try:
        return paramiko.PKey.from_path(file)
    except (OSError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as error:
        raise SiteError(f"cannot load key file {file}: {error}") from None


def authenticate(transport: paramiko.Transport, user: str, keys: Sequence[paramiko.PKey]) -> None:
    """Log in with one of ``keys``; if it is empty, with a key of this account's SSH agent.

    Raises SSHException.
    """
    agent = None if keys else paramiko.Agent()
    try:
        tried: Sequence[Any] = keys or (agent.get_keys() if agent else ())
        for key in tried:
            try:
                transport.auth_publickey(user, key)
            except paramiko.AuthenticationException:
                continue
            if transport.is_authenticated():
                return
    finally:
        if agent is not None:
            agent.close()
    raise paramiko.SSHException(
        f"none of {len(tried)} keys is accepted for {user}: add the endpoint's line to its authorized_keys"
    )


def authorized_line(key: paramiko.PKey, comment: str, *, tunnel: bool = False) -> str:
    """Return the line for the account's ``authorized_keys``, restricted to commands and files.

    ``tunnel``: also allow listening on the site (for a reverse tunnel), but no connections from it.
    """
    allowed = 'restrict,port-forwarding,permitopen="localhost:1"' if tunnel else "restrict"
    safe = "".join(letter if letter.isalnum() or letter in "._:-" else "-" for letter in comment)[:64]
    return f"{allowed} {key.get_name()} {key.get_base64()} {safe}"


def fingerprint(host_key: str) -> str:
    """Return the fingerprint of a host key as ``ssh-keygen -l`` prints it."""
    kind, _, data = host_key.partition(" ")
    digest = hashlib.sha256(base64.b64decode(data)).digest()
    return f"{kind} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _new() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
