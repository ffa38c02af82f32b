"""A JSON record and the bytes that belong to it, in one request body.

Base64 would make ten megabytes of arguments larger than a request may be. Layout::

    b"UMBP" | record length (4 bytes, big endian) | record, JSON, with "sizes": [...] | the bytes, joined
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from .errors import ProtocolError

#: Content-Type of a submission that travels as a parcel; its blobs are the payloads.
SUBMISSION_TYPE = "application/vnd.umbel.submission"
MAGIC = b"UMBP"


def pack(record: Mapping[str, Any], blobs: Sequence[bytes]) -> bytes:
    """Return ``record`` (JSON, without "sizes") and ``blobs`` as one parcel."""
    head = json.dumps({**record, "sizes": list(map(len, blobs))}, separators=(",", ":")).encode()
    return b"".join([MAGIC, len(head).to_bytes(4, "big"), head, *blobs])


def split(data: bytes) -> tuple[bytes, bytes]:
    """Return a parcel's record, still JSON with "sizes" in it, and its joined bytes. Raises ProtocolError."""
    end = 8 + int.from_bytes(data[4:8], "big")
    if data[:4] != MAGIC or len(data) < end:
        raise ProtocolError("the body is no parcel, or was cut short", code="BAD_REQUEST")
    return data[8:end], data[end:]


def cut(sizes: Any, joined: bytes) -> list[bytes]:
    """Cut the joined bytes of a parcel into blobs of ``sizes``. Raises ProtocolError when they do not fit."""
    if not isinstance(sizes, list) or any(type(size) is not int or size < 0 for size in sizes):
        raise ProtocolError("the parcel's 'sizes' are no list of sizes", code="BAD_REQUEST")
    ends = list(accumulate(sizes))
    if (ends[-1] if ends else 0) != len(joined):
        raise ProtocolError("the parcel's 'sizes' do not sum up to its bytes", code="BAD_REQUEST")
    return [joined[end - size : end] for size, end in zip(sizes, ends)]
