"""Compact JSON as UTF-8 bytes, for the records that travel with every task.

msgspec reads and writes it several times faster than the standard library. What msgspec refuses goes to the
standard library: strings with lone surrogates, subclasses of ``str``. So does everything where msgspec is not
installed, which is the case where runners use pure-Python copies of this package.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

_write = json.JSONEncoder(separators=(",", ":")).encode
_fast_encode: Callable[[Any], bytes] | None = None
_fast_decode: Callable[[bytes | bytearray | memoryview], Any] | None = None
try:
    import msgspec

    _fast_encode = msgspec.json.Encoder().encode
    _fast_decode = msgspec.json.Decoder().decode
except (ImportError, AttributeError):
    pass


def encode(value: Any) -> bytes:
    """Return a value of dicts, lists, tuples, strings and finite numbers as JSON.

    Raises TypeError for an object, RecursionError for a value that is nested too deep.
    """
    if _fast_encode is not None:
        try:
            return _fast_encode(value)
        except (TypeError, ValueError):
            pass
    return _write(value).encode()


def decode(data: bytes | bytearray | memoryview) -> Any:
    """Parse JSON, in which lone surrogates are accepted as escapes or as bytes.

    Raises ValueError for anything else, NaN and Infinity among it; RecursionError if it is nested too deep.
    """
    if _fast_decode is not None:
        try:
            return _fast_decode(data)
        except ValueError:
            pass
    return json.loads(str(data, "utf-8", "surrogatepass"), parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
