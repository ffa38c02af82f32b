"""Strict JSON: what is read can be written again, stored and compared.

Python's reader accepts NaN, numbers beyond every range and strings that are no Unicode text, and fails in
three different ways on absurd input; here all of that is one ``BadRequest``.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from typing import Any, NoReturn

from umbel.protocol.errors import BadRequest

# reading a number takes time with the square of its digits
_MAX_DIGITS = 300


def loads(data: bytes) -> Any:
    """Read JSON from UTF-8 bytes. Raises BadRequest."""
    try:
        value = json.loads(data.decode(), parse_constant=_constant, parse_int=_integer, parse_float=_number)
        # a backslash is the only way to lone surrogates, and base64 has none: most bodies skip the check
        if b"\\" in data:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError:
        raise BadRequest("the body is not UTF-8 text") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    return value


def dumps(value: Any) -> str:
    """Write JSON in its shortest form; bytes as base64."""
    return _write(value)


def _base64(value: Any) -> str:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    raise TypeError(f"a {type(value).__name__} is no JSON value")


_write = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_base64).encode


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"an integer has more than {_MAX_DIGITS} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value
