"""Pointers to large reports, which lie in pieces under a Redis key of their own.

Layout::

    b"UMBP" | JSON: {"report": id, "size": bytes}

A worker writes the sealed report in pieces to ``names.parts_key`` and then pushes the pointer to its list
of reports, so that small reports pass between the pieces.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from . import names
from .errors import ProtocolError
from .limits import MAX_REPORT_BYTES

MAGIC = b"UMBP"
_LARGEST = 256


class Pointer(NamedTuple):
    """The id of a report that lies in pieces, and its complete size in bytes."""

    report: str
    size: int


def write_pointer(report_id: str, size: int) -> bytes:
    """Return the frame that stands in the list of reports for a large one."""
    return MAGIC + json.dumps({"report": report_id, "size": size}).encode()


def read_pointer(data: bytes) -> Pointer | None:
    """Return the pointer in a frame, or None if the frame is not a pointer. Raises ProtocolError."""
    if data[:4] != MAGIC:
        return None
    try:
        record = json.loads(data[4:].decode("ascii")) if len(data) <= _LARGEST else None
    except (ValueError, RecursionError):
        record = None
    report, size = (record.get("report"), record.get("size")) if isinstance(record, dict) else (None, None)
    if not isinstance(report, str) or not names.is_id(report) or type(size) is not int:
        raise ProtocolError("the pointer to a large report is damaged")
    if not 0 < size <= MAX_REPORT_BYTES:
        raise ProtocolError(f"a report of {size} bytes is not allowed: the limit is {MAX_REPORT_BYTES}")
    return Pointer(report, size)
