"""Checks of values that another party has sent: types, ranges, lengths. All raise ValueError.

JSON allows more than the records do: numbers of any size, any nesting, NUL and lone surrogates in strings.
What passes these checks can be stored in any database and summed in 64 bits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

#: Largest absolute value of a time or a duration, seconds (about the year 33700).
MAX_SECONDS = 1e12
#: Largest integer in a record without a limit of its own.
MAX_INTEGER = 2**53
#: Deepest nesting, and largest number of values, of a free-form JSON object.
MAX_DEPTH, MAX_VALUES = 8, 50_000

_IDENTIFIER = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
_UNSAFE = re.compile("[\0\ud800-\udfff]")


def identifier(value: Any) -> str:
    """Return an id: 1 to 64 letters, digits and ``_ . : -`` of ASCII."""
    if type(value) is not str or not _IDENTIFIER.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a valid id")
    return value


def identifiers(values: Sequence[Any]) -> Sequence[str]:
    """Return ids, each checked as by ``identifier``."""
    try:
        if all(map(_IDENTIFIER.fullmatch, values)):
            return values
    except TypeError:
        pass
    return [identifier(value) for value in values]


def integer(value: Any, most: int = MAX_INTEGER, least: int = 0) -> int:
    """Return an integer between two values; a truth value is none."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{shown(value)} is not an integer between {least} and {most}")
    return value


def integers(values: Sequence[Any], most: int = MAX_INTEGER, least: int = 0) -> Sequence[int]:
    """Return integers, each checked as by ``integer``."""
    if set(map(type, values)) == {int} and least <= min(values) and max(values) <= most:
        return values
    return [integer(value, most, least) for value in values]


def seconds(value: Any) -> float:
    """Return a time or a duration. Negative ones (a clock was set) become 0.0."""
    if type(value) not in (int, float) or not -MAX_SECONDS <= value <= MAX_SECONDS:
        raise ValueError(f"{shown(value)} is not a number of seconds")
    return max(0.0, float(value))


def all_seconds(values: Sequence[Any]) -> Sequence[float]:
    """Return times or durations, each checked as by ``seconds``."""
    if set(map(type, values)) == {float} and 0.0 <= min(values) and max(values) <= MAX_SECONDS:
        if not math.isnan(sum(values)):
            return values
    return [seconds(value) for value in values]


def text(value: Any, most: int) -> str:
    """Return a string for people, cut to ``most`` characters, without NUL and surrogates."""
    if type(value) is not str:
        raise ValueError(f"{shown(value)} is not a string")
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", value[:most])


def label(value: Any, most: int) -> str:
    """Return a name: 1 to ``most`` printable characters, unchanged."""
    if type(value) is not str or not 0 < len(value) <= most or not value.isprintable():
        raise ValueError(f"{shown(value)} is not a valid name")
    return value


def array(value: Any, most: int) -> list[Any]:
    """Return a list of at most ``most`` values."""
    if type(value) is not list or len(value) > most:
        raise ValueError(f"{shown(value)} is not a list of at most {most} values")
    return value


def mapping(value: Any, most: int) -> dict[str, Any]:
    """Return a JSON object of at most ``most`` fields."""
    if type(value) is not dict or len(value) > most:
        raise ValueError(f"{shown(value)} is not an object of at most {most} fields")
    return value


def plain(value: Any, most: int = MAX_VALUES) -> dict[str, Any]:
    """Return a free-form JSON object, with strings that can be stored, limited depth, size and numbers."""
    left = [most]
    found: dict[str, Any] = _plain(mapping(value, most), MAX_DEPTH, left)
    return found


def _plain(value: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if depth == 0 or left[0] < 0:
        raise ValueError("an object is nested too deep or has too many values")
    if type(value) is str:
        return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", value)
    if type(value) is dict:
        return {
            _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", key): _plain(each, depth - 1, left)
            for key, each in value.items()
        }
    if type(value) is list:
        return [_plain(each, depth - 1, left) for each in value]
    if type(value) is int and abs(value) >= 2**63 or type(value) is float and not math.isfinite(value):
        raise ValueError(f"{shown(value)} is too large")
    return value


def shown(value: Any) -> str:
    """Return the beginning of a value's repr, for messages."""
    if type(value) is str:
        value = value[:60]
    elif type(value) is int and abs(value) > MAX_INTEGER:
        return "a huge integer"
    elif type(value) in (list, dict):
        return f"a {type(value).__name__} of {len(value)} values"
    return ascii(value)[:100]
