"""The facts of a node that are stored and shown. An endpoint may send anything in their place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

#: Maximum length of a fact that is a string, characters, and maximum number of accelerators.
MAX_TEXT, MAX_GPUS = 500, 64


def known_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts that have a known name and the expected type.

    Strings have no characters that a terminal acts on.
    """
    found = {name: _READERS[name](value) for name, value in facts.items() if name in _READERS}
    return {name: value for name, value in found.items() if value is not None}


def printable(value: Any) -> str | None:
    """Return a string without control characters, cut to ``MAX_TEXT`` characters; None for anything else."""
    if not isinstance(value, str):
        return None
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value[:MAX_TEXT])


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def _texts(value: Any) -> list[str] | None:
    return [printable(each) or "" for each in value[:MAX_GPUS]] if isinstance(value, list) else None


_READERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        ("hostname", "python", "implementation", "platform", "umbel", "celery", "cpu"), printable
    ),
    **dict.fromkeys(("way", "problem"), printable),
    **dict.fromkeys(("pid", "cpus", "memory", "queue"), _count),
    **dict.fromkeys(("load", "clock_ahead"), _number),
    "gpus": _texts,
}
