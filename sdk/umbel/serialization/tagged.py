"""Values as JSON that keeps their types, for the arguments and attributes of exceptions.

Only the types named here travel, and reading them runs no other code: no class is imported or called by name.
An object of these types is ``{"$<type>": content}``. Any other object is described by its class and its text;
the reader gets an ``Absent`` in its place.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import fractions
import json
import math
import pathlib
import sys
import uuid
from collections.abc import Callable
from typing import Any

from ..exceptions import Absent

#: Deepest nesting of lists, dictionaries and exceptions.
MAX_DEPTH = 20
#: Longest text of an object that does not travel (characters).
MAX_TEXT = 4_000
#: Largest integer (hexadecimal digits): conversion to decimal digits takes quadratic time.
MAX_DIGITS = 20_000
_NUMPY_KINDS = frozenset("biufcSUmM")

_TO_JSON: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bytes: ("$bytes", lambda value: base64.b64encode(value).decode()),
    bytearray: ("$bytearray", lambda value: base64.b64encode(value).decode()),
    complex: ("$complex", lambda value: [repr(value.real), repr(value.imag)]),
    range: ("$range", lambda value: [value.start, value.stop, value.step]),
    datetime.date: ("$date", datetime.date.isoformat),
    datetime.timedelta: ("$timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    decimal.Decimal: ("$decimal", str),
    fractions.Fraction: ("$fraction", lambda value: [_hex(value.numerator), _hex(value.denominator)]),
    uuid.UUID: ("$uuid", str),
    pathlib.PosixPath: ("$path", str),
    pathlib.WindowsPath: ("$path", str),
    pathlib.PurePosixPath: ("$posixpath", str),
    pathlib.PureWindowsPath: ("$windowspath", str),
}
_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "$int": lambda content: _from_hex(content),
    "$float": float,
    "$bytes": base64.b64decode,
    "$bytearray": lambda content: bytearray(base64.b64decode(content)),
    "$complex": lambda content: complex(float(content[0]), float(content[1])),
    "$range": lambda content: range(*content),
    "$date": datetime.date.fromisoformat,
    "$datetime": lambda content: datetime.datetime.fromisoformat(content[0]).replace(fold=content[1]),
    "$time": lambda content: datetime.time.fromisoformat(content[0]).replace(fold=content[1]),
    "$timedelta": lambda content: datetime.timedelta(*content),
    "$decimal": decimal.Decimal,
    "$fraction": lambda content: fractions.Fraction(_from_hex(content[0]), _from_hex(content[1])),
    "$uuid": uuid.UUID,
    "$path": pathlib.Path,
    "$posixpath": pathlib.PurePosixPath,
    "$windowspath": pathlib.PureWindowsPath,
}
_SEQUENCES: dict[Any, str] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_FROM_SEQUENCE: dict[str, Any] = {tag: kind for kind, tag in _SEQUENCES.items()}


class _NotTagged(Exception):
    """An object of a type that does not travel."""


def encode(value: Any, limit: int, nested: Callable[[BaseException, int], Any], depth: int = 0) -> Any:
    """Return a value as JSON of at most about ``limit`` characters.

    ``nested`` describes an exception inside the value, at the depth that it receives.
    """
    try:
        encoded = _encode(value, nested, depth)
        if len(json.dumps(encoded)) <= limit:
            return encoded
    except Exception:  # _NotTagged, too deep, or a container that changes meanwhile
        pass
    return absent(value)


def absent(value: Any) -> dict[str, Any]:
    """Describe an object that does not travel."""
    kind = type(value)
    return {
        "$absent": [f"{kind.__module__}.{kind.__qualname__}", _text(repr, value), _text(str, value)],
    }


def decode(encoded: Any, nested: Callable[[Any], BaseException]) -> Any:
    """Return the value of the result of ``encode``. Raises any exception if it is damaged.

    ``nested`` rebuilds an exception inside the value.
    """
    if isinstance(encoded, list):
        return [decode(item, nested) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    tag = next(iter(encoded), "")
    if not tag.startswith("$"):
        return {key: decode(item, nested) for key, item in encoded.items()}
    content = encoded[tag]
    if tag in _FROM_SEQUENCE:
        return _FROM_SEQUENCE[tag](decode(item, nested) for item in content)
    if tag == "$dict":
        return {decode(key, nested): decode(item, nested) for key, item in content}
    if tag == "$exception":
        return nested(content)
    if tag in ("$enum", "$class", "$numpy"):
        return _find_or_absent(tag, *content)
    if tag == "$absent":
        return Absent(*map(str, content))
    return _FROM_JSON[tag](content)


def find_class(module: str, qualname: str) -> type | None:
    """Return a class of a module that is imported already, or None. Imports nothing."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        if found is None or part.startswith("__"):
            return None
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    return found if isinstance(found, type) else None


def _encode(value: Any, nested: Callable[[BaseException, int], Any], depth: int) -> Any:
    kind = type(value)
    if depth > MAX_DEPTH:
        raise _NotTagged
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if value.bit_length() < 10_000 else {"$int": _hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is list:
        return [_encode(item, nested, depth + 1) for item in value]
    if kind in _SEQUENCES:
        return {_SEQUENCES[kind]: [_encode(item, nested, depth + 1) for item in value]}
    if kind is dict:
        return _encode_dict(value, nested, depth)
    if kind in _TO_JSON:
        tag, convert = _TO_JSON[kind]
        return {tag: convert(value)}
    if issubclass(kind, BaseException):
        return {"$exception": nested(value, depth + 1)}
    return _encode_rare(value)


def _encode_dict(value: dict[Any, Any], nested: Callable[[BaseException, int], Any], depth: int) -> Any:
    if all(type(key) is str and not key.startswith("$") for key in value):
        return {key: _encode(item, nested, depth + 1) for key, item in value.items()}
    pairs = [
        [_encode(key, nested, depth + 1), _encode(item, nested, depth + 1)] for key, item in value.items()
    ]
    return {"$dict": pairs}


def _hex(value: int) -> str:
    if value.bit_length() > 4 * MAX_DIGITS:
        raise _NotTagged
    return hex(value)


def _from_hex(digits: str) -> int:
    if len(digits) > MAX_DIGITS + 3:
        raise ValueError("an integer is too large")
    return int(digits, 16)


def _encode_rare(value: Any) -> Any:
    kind = type(value)
    if kind in (datetime.datetime, datetime.time):
        if value.tzinfo is not None and type(value.tzinfo) is not datetime.timezone:
            raise _NotTagged  # a named zone has rules, not an offset
        return {f"${kind.__name__}": [value.isoformat(), value.fold]}
    if issubclass(kind, enum.Enum):
        return {"$enum": [kind.__module__, kind.__qualname__, value.name, *_texts(value)]}
    if issubclass(kind, type):
        return {"$class": [value.__module__, value.__qualname__, "", *_texts(value)]}
    numpy = sys.modules.get("numpy")
    if numpy is None or not (issubclass(kind, numpy.generic) or kind is numpy.ndarray):
        raise _NotTagged
    if value.dtype.kind not in _NUMPY_KINDS:
        raise _NotTagged
    raw = base64.b64encode(value.tobytes()).decode()
    shape = list(value.shape) if kind is numpy.ndarray else None
    return {"$numpy": [value.dtype.str, shape, raw, *_texts(value)]}


def _find_or_absent(tag: str, first: str, second: Any, third: str, *texts: str) -> Any:
    """Return a member of an enumeration, a class, or what numpy has, if it is imported here."""
    found: Any = None
    if tag == "$numpy":
        numpy = sys.modules.get("numpy")
        if numpy is not None and numpy.dtype(first).kind in _NUMPY_KINDS:
            flat = numpy.frombuffer(base64.b64decode(third), dtype=first)
            found = flat[0] if second is None else flat.reshape(second).copy()
    else:
        found = find_class(first, second)
        if tag == "$enum" and found is not None:
            found = found._member_map_.get(third) if issubclass(found, enum.Enum) else None
    return Absent(*texts) if found is None else found


def _texts(value: Any) -> list[str]:
    texts: list[str] = absent(value)["$absent"]
    return texts


def _text(convert: Callable[[Any], str], value: Any) -> str:
    try:
        return convert(value)[:MAX_TEXT]
    except Exception:  # __repr__ of any class
        return f"<{type(value).__qualname__} object>"
