"""Names and limits of reports on the broker."""

from __future__ import annotations

import json

from umbel.protocol import names

INLINE_REPORT_BYTES = 256 * 1024
MAX_UNREAD_REPORTS = 512
PARTS_LIFETIME = 86400.0


def reports_key(endpoint: str) -> str:
    """Redis list of reports."""
    return names.REPORTS_KEY


def news_channel(endpoint: str) -> str:
    """Channel on which reports are announced."""
    return f"{names.prefix(endpoint)}news"


def parts_key(endpoint: str, report_id: str) -> str:
    """Redis key of a report in pieces."""
    return f"{names.prefix(endpoint)}parts:{report_id}"


def write_pointer(report_id: str, size: int) -> bytes:
    """Return the frame that stands in the list for a report in pieces."""
    return b"UMBP" + json.dumps({"report": report_id, "size": size}).encode()
