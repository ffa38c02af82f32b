"""Signed bytes: how bundles and reports travel.

Layout::

    b"UMB1" | header length (4 bytes, big endian) | header | signature (64 bytes) | body

The header is JSON and holds ``v`` (protocol version), ``typ``, ``aud`` (who it is for), ``iat`` and
``exp`` (seconds since 1970), ``sha256`` and ``size`` of the body, and what the message type adds. The
signature is Ed25519 (RFC 8032) over ``b"umbel-envelope-1\\0"`` and the header's raw bytes, so nothing
needs canonical JSON and the body is bound by its hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .errors import ProtocolError
from .version import PROTOCOL_VERSION

MAGIC = b"UMB1"
CONTEXT = b"umbel-envelope-1\0"
SIGNATURE_BYTES = 64
#: Clocks of two machines may differ by this many seconds.
LEEWAY = 300.0

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def new_private_key() -> bytes:
    """Return a new Ed25519 private key as 32 raw bytes."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


class Sealed(NamedTuple):
    """The parts of an envelope, not checked: nothing in it may be believed but whom it claims to be from."""

    header: dict[str, Any]
    raw: bytes
    signature: bytes
    body: bytes


class Signer:
    """Signs envelopes with one Ed25519 private key (32 raw bytes)."""

    def __init__(self, private_key: bytes):
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)
        self.public_key = self._key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )

    def seal(self, header: Mapping[str, Any], body: bytes | bytearray = b"") -> tuple[bytes, bytes]:
        """Sign ``header`` (completed with v, sha256 and size) over ``body``; return (head, body).

        ``head + body`` is the envelope; they may travel apart.
        """
        full = {
            **header,
            "v": PROTOCOL_VERSION,
            "size": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        raw = _encode(full).encode("utf-8", "surrogatepass")
        signature = self._key.sign(CONTEXT + raw)
        return MAGIC + len(raw).to_bytes(4, "big") + raw + signature, bytes(body)


class Verifier:
    """Opens envelopes that one Ed25519 public key (32 raw bytes) has signed."""

    def __init__(self, public_key: bytes):
        self._key = Ed25519PublicKey.from_public_bytes(public_key)

    def open_head(self, head: bytes, *, typ: str, aud: str, now: float) -> dict[str, Any]:
        """Check a head's signature, version, type, address and dates; return its header.

        Raises ProtocolError. The body is checked apart by ``check_body``.
        """
        sealed = unseal(head)
        if sealed.body:
            raise ProtocolError("envelope has bytes after its signature")
        self._check(sealed, typ=typ, aud=aud, now=now)
        return sealed.header

    def open(self, data: bytes | Sealed, *, typ: str, aud: str, now: float) -> tuple[dict[str, Any], bytes]:
        """Check a whole envelope; return its header and its body. Raises ProtocolError."""
        sealed = data if isinstance(data, Sealed) else unseal(data)
        self._check(sealed, typ=typ, aud=aud, now=now)
        check_body(sealed.header, sealed.body)
        return sealed.header, sealed.body

    def _check(self, sealed: Sealed, *, typ: str, aud: str, now: float) -> None:
        try:
            self._key.verify(sealed.signature, CONTEXT + sealed.raw)
        except InvalidSignature:
            raise ProtocolError("envelope is not signed by the expected key") from None
        _check_header(sealed.header, typ=typ, aud=aud, now=now)


def check_body(header: Mapping[str, Any], body: bytes) -> None:
    """Raise ProtocolError unless ``body`` is the one that the checked ``header`` speaks of."""
    if len(body) != header.get("size") or hashlib.sha256(body).hexdigest() != header.get("sha256"):
        raise ProtocolError("envelope's body is not the one that was signed")


def unseal(data: bytes) -> Sealed:
    """Cut an envelope (or its head alone) into its parts, checking nothing. Raises ProtocolError."""
    length = int.from_bytes(data[4:8], "big")
    end = 8 + length
    if data[:4] != MAGIC or len(data) < end + SIGNATURE_BYTES:
        raise ProtocolError("these bytes are no envelope, or were cut short")
    raw = data[8:end]
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise ProtocolError("envelope's header is not JSON") from None
    if not isinstance(header, dict):
        raise ProtocolError("envelope's header is not a JSON object")
    return Sealed(header, raw, data[end : end + SIGNATURE_BYTES], data[end + SIGNATURE_BYTES :])


def _check_header(header: Mapping[str, Any], *, typ: str, aud: str, now: float) -> None:
    version = header.get("v")
    if version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"envelope speaks protocol {version!r}, this side {PROTOCOL_VERSION}: upgrade the older one",
            code="VERSION_MISMATCH",
        )
    if header.get("typ") != typ or header.get("aud") != aud:
        found = f"a {header.get('typ')!r} for {header.get('aud')!r}"
        raise ProtocolError(f"envelope is {found}, not a {typ!r} for {aud!r}")
    issued, expires = header.get("iat"), header.get("exp")
    if not isinstance(issued, (int, float)) or issued > now + LEEWAY:
        raise ProtocolError("envelope was issued in the future: compare the clocks of both machines")
    if expires is not None and (not isinstance(expires, (int, float)) or expires + LEEWAY < now):
        raise ProtocolError("envelope has expired")
