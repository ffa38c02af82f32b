"""Types of settings: what a value must be, for msgspec and in words.

A field's type is a plain type, or ``Annotated`` with the limits of ``msgspec.Meta`` and the marks below.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

#: Larger integers are rejected: TOML, SQL and most JSON readers end there.
MAX_INTEGER = 2**63 - 1
#: Larger numbers, which are times in seconds, are rejected: no wait and no calendar supports them.
MAX_NUMBER = 1_000_000_000
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([KMGT]?)(?:i?B)?\Z", re.IGNORECASE)
#: In an ``Annotated`` type: messages never show the value.
SECRET = object()


@dataclass(frozen=True)
class Alternative:
    """In an ``Annotated`` type: a second way to write a value.

    ``kind``: its type. ``words``: its description. ``parse``: returns the value proper, or raises ValueError.
    """

    kind: type
    words: str
    parse: Callable[[Any], Any]


def parse_size(text: str) -> int:
    """Return the bytes of a size with a unit, such as "4GiB"; units are powers of 1024. Raises ValueError."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size")
    return int(float(match[1]) * _UNITS[match[2].upper()])


SIZE = Alternative(str, 'a size such as "4GiB"', parse_size)

Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Positive = Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Number = Annotated[float, Meta(ge=0, le=MAX_NUMBER)]
Size = Annotated[int, Meta(ge=0, le=MAX_INTEGER), SIZE]
Secret = Annotated[str, SECRET]


def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without None and without what ``Annotated`` adds, and that."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(one for one in get_args(hint) if one is not type(None))
    return (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


def convert(hint: Any, value: Any, syntax: str = "toml") -> Any:
    """Return ``value`` as the type that a setting has. Raises ValueError."""
    base, marks = _parts(hint)
    for mark in marks:
        if isinstance(mark, Alternative) and type(value) is mark.kind:
            value = mark.parse(value)
    if syntax == "json" and base is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    lax = syntax == "environment" and base is not str and isinstance(value, str)
    try:
        made = msgspec.convert(value.strip() if lax else value, hint, strict=not lax)
    except msgspec.ValidationError as error:  # not a ValueError in all releases
        raise ValueError(str(error)) from None
    if isinstance(made, float) and not math.isfinite(made):
        raise ValueError(made)
    return made


def expected(hint: Any) -> str:
    """What a setting must be, in words."""
    base, marks = _parts(hint)
    words = [mark.words for mark in marks if isinstance(mark, Alternative)]
    limits = next((mark for mark in marks if isinstance(mark, Meta)), Meta())
    return " or ".join([_words(base, limits), *words])


def _words(base: Any, limits: Meta) -> str:
    origin, inner = get_origin(base), get_args(base)
    if base in (int, float):
        return _number_words("integer" if base is int else "number", limits.ge, limits.le)
    if origin is Literal:
        return " or ".join(filter(None, [", ".join(inner[:-1]), inner[-1]]))
    if is_dataclass(base) or inner[1:] == (Any,):
        return "a table"
    if origin is not None:
        return "a table of strings" if issubclass(origin, Mapping) else "a list of strings"
    return {bool: "true or false", str: "a string"}[base]


def _number_words(noun: str, least: float | None, most: float | None) -> str:
    article = "an" if noun == "integer" else "a"
    if least is not None and most not in (None, MAX_INTEGER):
        return f"{article} {noun} from {least} to {most}"
    if least is None:
        return f"{article} {noun}"
    if least == 0:
        return f"a non-negative {noun}"
    if (noun, least) == ("integer", 1):
        return "a positive integer"
    return f"{article} {noun} of at least {least}"


def got(value: Any, hint: Any) -> str:
    """What a setting is, in words: of a list or a table only the item that is wrong."""
    base, marks = _parts(hint)
    show = _kind if SECRET in marks else shown
    origin, inner = get_origin(base), get_args(base)
    if origin in (tuple, frozenset) and isinstance(value, (list, tuple)):
        for number, item in enumerate(value, 1):
            if not _fits(inner[0], item):
                return f"{show(item)} as item {number}"
    elif origin is Mapping and isinstance(value, Mapping):
        for key, item in value.items():
            if not _fits(inner[-1], item):
                return f"{show(item)} for {shown(key)}"
    return show(value)


def _fits(hint: Any, value: Any) -> bool:
    try:
        convert(hint, value)
    except ValueError:
        return False
    return True


def shown(value: Any) -> str:
    """A value for a message: short, on one line, as TOML and JSON write it."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 40 else f"{value[:40]!r}..."
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value}" if math.isfinite(value) else f"{value}, which is not a finite number"
    if isinstance(value, int) and abs(value) <= MAX_INTEGER:
        return f"{value}"
    return _kind(value)


def _kind(value: Any) -> str:
    """The kind of a value that is too long or too secret for a message."""
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "a string", float: "a number", list: "a list", tuple: "a list", dict: "a table"}
    big = isinstance(value, int) and abs(value) > MAX_INTEGER
    names[int] = "an integer of more than 64 bits" if big else "an integer"
    return names.get(type(value), f"a {type(value).__name__}")
