"""Signed bytes, in which bundles and reports travel.

Layout::

    b"UMB1" | header length (4 bytes, big endian) | header | signature (64 bytes) | body

The header is JSON and has ``v`` (protocol version), ``typ``, ``aud`` (the recipient), ``iat`` and ``exp``
(seconds since 1970), ``sha256`` and ``size`` of the body, and the fields of the message type. The signature
is Ed25519 (RFC 8032) over ``b"umbel-envelope-1\\0"`` and the header's raw bytes, so canonical JSON is not
needed. The hash binds the body to the header.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from . import checks, compact_json
from .errors import ProtocolError
from .version import PROTOCOL_VERSION

MAGIC = b"UMB1"
CONTEXT = b"umbel-envelope-1\0"
SIGNATURE_BYTES = 64
#: Largest difference between the clocks of two machines (seconds).
LEEWAY = 300.0
#: Largest header. A report of a thousand calls needs a tenth of it.
MAX_HEADER_BYTES = 8 * 1024 * 1024


def new_private_key() -> bytes:
    """Return a new Ed25519 private key as 32 raw bytes."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


class _Sealed(NamedTuple):
    """The parts of an envelope that is not verified; ``raw``: its header, not parsed."""

    raw: bytes
    signature: bytes
    body: bytes


class Signer:
    """Signs envelopes with an Ed25519 private key (32 raw bytes)."""

    def __init__(self, private_key: bytes):
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)
        self.public_key = self._key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )

    def seal(self, header: Mapping[str, Any], body: bytes | bytearray = b"") -> tuple[bytes, bytes]:
        """Sign ``header`` (to which v, sha256 and size are added) for ``body``; return (head, body).

        ``head + body`` is the envelope; the two may travel separately.
        """
        full = {
            **header,
            "v": PROTOCOL_VERSION,
            "size": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        raw = compact_json.encode(full)
        signature = self._key.sign(CONTEXT + raw)
        return MAGIC + len(raw).to_bytes(4, "big") + raw + signature, bytes(body)


class Verifier:
    """Opens envelopes that were signed with the private key of an Ed25519 public key (32 raw bytes)."""

    def __init__(self, public_key: bytes):
        self._key = Ed25519PublicKey.from_public_bytes(public_key)

    def open_head(self, head: bytes, *, typ: str, aud: str, now: float) -> dict[str, Any]:
        """Verify signature, version, type, recipient and dates of a head; return its header.

        Raises ProtocolError. ``check_body`` checks the body.
        """
        sealed = _unseal(head)
        if sealed.body:
            raise ProtocolError("the head of the envelope has bytes after its signature")
        return self._header(sealed, typ=typ, aud=aud, now=now)

    def open(self, data: bytes, *, typ: str, aud: str, now: float | None) -> tuple[dict[str, Any], bytes]:
        """Verify a complete envelope; return its header and its body. Raises ProtocolError.

        ``now`` None: the clock of the sender may be wrong by any amount.
        """
        sealed = _unseal(data)
        header = self._header(sealed, typ=typ, aud=aud, now=now)
        check_body(header, sealed.body)
        return header, sealed.body

    def _header(self, sealed: _Sealed, *, typ: str, aud: str, now: float | None) -> dict[str, Any]:
        """Verify the signature, and only then parse and check the header."""
        try:
            self._key.verify(sealed.signature, CONTEXT + sealed.raw)
        except InvalidSignature:
            raise ProtocolError("the envelope is not signed by the expected key") from None
        header = _parse(sealed.raw)
        _check_header(header, typ=typ, aud=aud, now=now)
        return header


def check_body(header: Mapping[str, Any], body: bytes) -> None:
    """Raise ProtocolError unless size and hash of ``body`` are those in the verified ``header``."""
    if len(body) != header.get("size") or hashlib.sha256(body).hexdigest() != header.get("sha256"):
        raise ProtocolError("the body of the envelope is not the one that was signed")


def unverified_header(data: bytes) -> dict[str, Any]:
    """Return the header of an envelope that this machine has written itself. Raises ProtocolError."""
    # of a large report this is asked before each piece, so its body must not be copied
    return _parse(_raw_header(data))


def _unseal(data: bytes) -> _Sealed:
    """Split an envelope, or a head without its body, without verifying it. Raises ProtocolError."""
    raw = _raw_header(data)
    end = 8 + len(raw)
    return _Sealed(raw, data[end : end + SIGNATURE_BYTES], data[end + SIGNATURE_BYTES :])


def _raw_header(data: bytes) -> bytes:
    """Return the header of an envelope, not parsed. Raises ProtocolError."""
    length = int.from_bytes(data[4:8], "big")
    end = 8 + length
    if data[:4] != MAGIC or len(data) < end + SIGNATURE_BYTES:
        raise ProtocolError("these bytes are not an envelope, or are truncated")
    if length > MAX_HEADER_BYTES:
        raise ProtocolError(f"the header of the envelope is larger than {MAX_HEADER_BYTES} bytes")
    return data[8:end]


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        header = compact_json.decode(raw)
    except (ValueError, RecursionError):
        raise ProtocolError("the header of the envelope is not JSON") from None
    if not isinstance(header, dict):
        raise ProtocolError("the header of the envelope is not a JSON object")
    return header


def _check_header(header: Mapping[str, Any], *, typ: str, aud: str, now: float | None) -> None:
    version = header.get("v")
    if version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"the envelope has protocol {checks.shown(version)}, this side has {PROTOCOL_VERSION}: "
            "upgrade the older one",
            code="VERSION_MISMATCH",
        )
    if header.get("typ") != typ or header.get("aud") != aud:
        found = f"a {checks.shown(header.get('typ'))} for {checks.shown(header.get('aud'))}"
        raise ProtocolError(f"the envelope is {found}, not a {typ!r} for {aud!r}")
    try:
        issued = checks.seconds(header.get("iat"))
        expires = None if header.get("exp") is None else checks.seconds(header["exp"])
    except ValueError as error:
        raise ProtocolError(f"a date of the envelope is not valid: {error}") from None
    if now is None:
        return
    if issued > now + LEEWAY:
        raise ProtocolError("the envelope was issued in the future: compare the clocks of both machines")
    if expires is not None and expires + LEEWAY < now:
        raise ProtocolError("the envelope has expired")
