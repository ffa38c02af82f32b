"""Details that a runner records at the end of a call besides its result, read without trusting them."""

from __future__ import annotations

import json
from typing import Any

#: Most local packages of a call that are reported.
MAX_LOCAL = 20
#: Fields of a usage record.
USAGE = {"cpu": float, "user": float, "system": float, "max_rss": int, "read": int, "written": int}


def read_usage_record(details: bytes) -> dict[str, Any]:
    """Return ``code``, ``message``, ``usage`` and ``local`` of a call's details.

    ``local``: see ``Place``. Invalid details give a failure.
    """
    record: dict[str, Any] = {"code": "TASK_ERROR", "message": None, "usage": None, "local": None}
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
        if isinstance(given.get("local"), dict):
            local = sorted(given["local"].items())[:MAX_LOCAL]
            record["local"] = {name[:100]: "node" if own is True else "sent" for name, own in local}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        record["message"] = "the runner wrote an invalid record for this call"
    return record
