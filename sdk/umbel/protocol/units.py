"""Sizes and durations that people write with units, such as ``"2GiB"`` and ``"5min"``."""

from __future__ import annotations

import re
from typing import Any

_SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZES.update({"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40})
_TIMES = {"ms": 0.001, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*\Z", re.ASCII)


def read_size(name: str, value: Any) -> Any:
    """Return bytes for a string such as ``"2GiB"``; other values unchanged. Raises ValueError."""
    if not isinstance(value, str):
        return value
    found = _read(value, _SIZES)
    if found is None or found != int(found):
        raise ValueError(
            f"{name} must be an integer (bytes) or a string such as '512MiB' or '2GiB', got {value!r}"
        )
    return int(found)


def read_time(name: str, value: Any) -> Any:
    """Return seconds for a string such as ``"5min"``; other values unchanged. Raises ValueError."""
    if not isinstance(value, str):
        return value
    found = _read(value, _TIMES)
    if found is None:
        raise ValueError(
            f"{name} must be a number (seconds) or a string such as '90s' or '5min', got {value!r}"
        )
    return found


def _read(text: str, units: dict[str, Any]) -> float | None:
    match = _FORM.match(text)
    unit = units.get(match[2].lower()) if match else None
    return None if match is None or unit is None else float(match[1]) * unit
