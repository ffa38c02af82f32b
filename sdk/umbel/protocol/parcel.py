"""Parcels: a JSON record with attached bytes in the body of one request or answer.

Base64 would make ten megabytes of arguments larger than the largest request, and encoding results would cost
more than everything else that is done with them. Layout::

    b"UMBP" | record length (4 bytes, big endian) | record, JSON, with "sizes": [...] | the bytes, joined
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from . import compact_json
from .errors import ProtocolError
from .states import TaskState

#: Content-Type of a submission in a parcel; its blobs are the payloads.
SUBMISSION_TYPE = "application/vnd.umbel.submission"
#: Content-Type of a page of results in a parcel, for clients that accept it.
RESULTS_TYPE = "application/vnd.umbel.results"
MAGIC = b"UMBP"
_SUCCEEDED = TaskState.SUCCEEDED.value


def pack(record: Mapping[str, Any], blobs: Sequence[bytes]) -> bytes:
    """Return ``record`` (JSON, without "sizes") and ``blobs`` as one parcel."""
    return b"".join(_pieces(record, blobs))


def _pieces(record: Mapping[str, Any], blobs: Sequence[bytes]) -> list[bytes]:
    head = compact_json.encode({**record, "sizes": list(map(len, blobs))})
    return [b"".join([MAGIC, len(head).to_bytes(4, "big"), head]), *blobs]


def split(data: bytes | memoryview) -> tuple[bytes, memoryview]:
    """Return a parcel's record, still JSON and with "sizes", and its joined bytes. Raises ProtocolError."""
    end = 8 + int.from_bytes(data[4:8], "big")
    if data[:4] != MAGIC or len(data) < end:
        raise ProtocolError("the body is not a parcel, or is truncated", code="BAD_REQUEST")
    return bytes(data[8:end]), memoryview(data)[end:]


def cut(sizes: Any, joined: memoryview) -> list[bytes]:
    """Split the joined bytes of a parcel into blobs of ``sizes``. Raises ProtocolError on a mismatch."""
    if not isinstance(sizes, list) or any(type(size) is not int or size < 0 for size in sizes):
        raise ProtocolError(
            "the parcel's 'sizes' must be a list of non-negative integers", code="BAD_REQUEST"
        )
    ends = list(accumulate(sizes))
    if (ends[-1] if ends else 0) != len(joined):
        raise ProtocolError(
            "the sum of the parcel's 'sizes' is not the size of its bytes", code="BAD_REQUEST"
        )
    return [bytes(joined[end - size : end]) for size, end in zip(sizes, ends)]


def result_pieces(page: Mapping[str, Any]) -> list[bytes]:
    """Return a page of finished tasks as one parcel in pieces: its record, then each blob.

    The bytes under "result" or "exception" (the other is None) of each of its "results" become a blob; the
    state of the task determines which of the two it is.
    """
    rows = [dict(row) for row in page["results"]]
    blobs = []
    for row in rows:
        result, exception = row.pop("result"), row.pop("exception")
        blobs.append(result if result is not None else exception or b"")
    return _pieces({**page, "results": rows}, blobs)


def unpack_results(data: bytes) -> dict[str, Any]:
    """Return the page of a parcel of ``result_pieces``. Raises ProtocolError if the parcel is damaged."""
    head, joined = split(data)
    try:
        page: dict[str, Any] = compact_json.decode(head)
        rows = page["results"]
        blobs = cut(page.pop("sizes"), joined)
        for row, blob in zip(rows, blobs, strict=True):
            succeeded = row["state"] == _SUCCEEDED
            row["result"] = blob if succeeded else None
            row["exception"] = None if succeeded else blob or None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError(
            f"the parcel does not contain a page of results: {error}", code="BAD_REQUEST"
        ) from None
    return page
