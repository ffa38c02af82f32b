"""Strict JSON: every value that is read can be written again, stored and compared.

Python's parser accepts NaN, numbers out of range and strings with lone surrogates, and raises different
exceptions for invalid input. This module raises ``BadRequest`` in all these cases.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from typing import Any, NoReturn

from umbel.protocol.errors import BadRequest

# the time to parse an integer grows with the square of its digits
_MAX_DIGITS = 300


def loads(data: bytes) -> Any:
    """Parse JSON from UTF-8 bytes. Raises BadRequest."""
    try:
        value = json.loads(data.decode(), parse_constant=_constant, parse_int=_integer, parse_float=_number)
        # lone surrogates need a backslash, which base64 does not contain: most bodies skip the check
        if b"\\" in data:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError:
        raise BadRequest("the body is not valid UTF-8") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except ValueError as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    return value


def dumps(value: Any) -> str:
    """Serialize to compact JSON; bytes become base64."""
    return _write(value)


def _base64(value: Any) -> str:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    raise TypeError(f"a {type(value).__name__} cannot be serialized as JSON")


_write = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_base64).encode


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not allowed")


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"an integer has more than {_MAX_DIGITS} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value
