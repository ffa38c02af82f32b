"""Notes: what a runner says of a call's end beside its result, read without trusting it."""

from __future__ import annotations

import json
from typing import Any

#: What a resource record may hold.
USAGE = {"cpu": float, "user": float, "system": float, "max_rss": int, "read": int, "written": int}


def read_usage_record(details: bytes) -> dict[str, Any]:
    """Return ``code``, ``message`` and ``usage`` of a note; nonsense gives a failure that says so."""
    record: dict[str, Any] = {"code": "TASK_ERROR", "message": None, "usage": None}
    try:
        given = json.loads(details) if details else {}
        if isinstance(given.get("code"), str):
            record["code"] = given["code"][:32]
        if isinstance(given.get("message"), str):
            record["message"] = given["message"][:2000]
        if isinstance(given.get("usage"), dict):
            record["usage"] = {
                key: kind(given["usage"][key]) for key, kind in USAGE.items() if key in given["usage"]
            }
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        record["message"] = "the call's runner wrote a damaged record"
    return record
