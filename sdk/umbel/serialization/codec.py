"""Python objects to bytes and back: functions, calls, results, exceptions.

Only the SDK and the endpoint's runner processes import this; the service moves the bytes unread.
The first bytes name the codec, so that more can be added:

========== ==============================================================================
``P``      arguments or a result of builtin types only: a plain pickle, protocol 5
``C``      anything else: two bytes with the writer's Python version, then a cloudpickle
``Z``      either of these, compressed because it was large and that paid, see ``compression``
``UMBF``   a function: length (4 bytes, big endian) of a JSON header, header, cloudpickle
``{``      an exception: JSON, see ``exceptions``
========== ==============================================================================

Whatever is defined in ``__main__``, a notebook or a module that is not installed travels by value, so
an endpoint needs only installed packages. Code by value does not survive a change of Python's minor
version: functions then fall back on their source text, and where that is impossible ``VersionMismatch``
names both versions.
"""

from __future__ import annotations

import functools
import io
import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..environment import environment_of, limits_of
from ..exceptions import DeserializeError, SerializeError, VersionMismatch
from ..protocol.environment import FUNCTION_MAGIC
from . import by_value
from .compression import SQUEEZED, squeeze, unsqueeze
from .exceptions import dump_exception, load_exception
from .source import Fallback, find_source, rebuild

__all__ = [
    "FunctionBody",
    "dump_call",
    "dump_exception",
    "dump_function",
    "dump_result",
    "load_call",
    "load_exception",
    "load_function",
    "load_result",
]

PLAIN = b"P"
CLOUD = b"C"
_P, _C, _Z = PLAIN[0], CLOUD[0], SQUEEZED[0]

#: This Python's version as it is written into bytes.
PYTHON: tuple[int, int] = (sys.version_info[0], sys.version_info[1])

#: Exact types whose plain pickle needs no second look.
_SCALARS = frozenset({int, float, str, bytes, bool, type(None), complex})
#: cloudpickle's constructor of functions by value: bytes without it hold no code.
_CODE_MARK = b"_make_function"

_pickle = functools.partial(pickle.dumps, protocol=5)
_unpickle = pickle.loads


@dataclass(frozen=True)
class FunctionBody:
    """A serialized function.

    ``data``: its bytes; ``name``: what people know it by; ``source``: its text if there is one;
    ``description``: first line of its docstring.
    """

    data: bytes
    name: str
    source: str | None
    description: str = ""


class _NotPlain(Exception):
    """An object is not made of builtin types alone."""


class _PlainPickler(pickle.Pickler):
    """Pickles builtin types in C and stops at everything else."""

    def reducer_override(self, obj: Any) -> Any:
        raise _NotPlain


def dump_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Turn the arguments of a call into bytes. Raises SerializeError."""
    for value in args:
        if type(value) not in _SCALARS:
            return _dump((args, kwargs))
    for value in kwargs.values():
        if type(value) not in _SCALARS:
            return _dump((args, kwargs))
    return squeeze(PLAIN + _pickle((args, kwargs)))


def load_call(data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn bytes of ``dump_call`` into (args, kwargs). Raises DeserializeError, VersionMismatch."""
    call = _load(data)
    if type(call) is not tuple or len(call) != 2:
        raise DeserializeError("the bytes hold an object, but not the arguments of a call")
    return call


def dump_result(value: Any) -> bytes:
    """Turn what a function returned into bytes. Raises SerializeError."""
    if type(value) in _SCALARS:
        return squeeze(PLAIN + _pickle(value))
    return _dump(value)


def load_result(data: bytes) -> Any:
    """Turn bytes of ``dump_result`` into the value. Raises DeserializeError, VersionMismatch."""
    return _load(data)


def dump_function(fn: Callable[..., Any]) -> FunctionBody:
    """Turn a function, or any callable, into bytes.

    Raises SerializeError when something that it needs cannot be pickled, TypeError when it is not callable.
    """
    if not callable(fn):
        raise TypeError(f"{fn!r} is not callable: give a function")
    name = function_name(fn)
    try:
        body = by_value.dumps(fn)
    except Exception as error:  # pickling runs code of any library, which may raise anything
        raise SerializeError(f"function {name!r} cannot be serialized: {_why(error)}") from error
    source, fallback = find_source(fn)
    header: dict[str, Any] = {"codec": "cloudpickle", "python": version_text(PYTHON), "name": name}
    environment = environment_of(fn)
    if environment is not None:
        header["environment"] = environment.to_json()
    limits = limits_of(fn)
    if limits is not None:
        header["limits"] = limits.to_json()
    if fallback is not None:
        header["fallback"] = fallback.to_json()
    raw = json.dumps(header, separators=(",", ":")).encode()
    return FunctionBody(
        FUNCTION_MAGIC + len(raw).to_bytes(4, "big") + raw + body, name, source, _description(fn)
    )


def load_function(data: bytes) -> Callable[..., Any]:
    """Turn bytes of ``dump_function`` into a callable. Raises DeserializeError, VersionMismatch."""
    header, body = _split_function(data)
    name = header.get("name", "?")
    written_by = str(header.get("python"))
    if written_by != version_text(PYTHON) and _CODE_MARK in body:
        fallback = header.get("fallback")
        if fallback is None:
            raise VersionMismatch(
                f"function {name!r} was made by Python {written_by} and cannot be read by Python "
                f"{version_text(PYTHON)}, having no source to fall back on: use one version on both sides",
                details={"client": written_by, "worker": version_text(PYTHON)},
            )
        return rebuild(Fallback.from_json(fallback))
    try:
        fn = _unpickle(body)
    except Exception as error:  # unpickling imports and runs code of any library
        raise DeserializeError(f"function {name!r} cannot be loaded here: {_why(error)}") from error
    if not callable(fn):
        raise DeserializeError(f"the bytes of {name!r} hold a {type(fn).__name__}, which is not callable")
    return fn  # type: ignore[no-any-return]


def function_name(fn: Callable[..., Any]) -> str:
    """Return the name that people know a callable by: that of its innermost function."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None) or type(fn).__qualname__
    return str(name).replace("<locals>.", "")


def _description(fn: Callable[..., Any]) -> str:
    documented = fn if not isinstance(fn, functools.partial) else fn.func
    text = getattr(documented, "__doc__", None)
    return text.strip().partition("\n")[0] if isinstance(text, str) else ""


def version_text(version: tuple[int, int]) -> str:
    """Return a version as people write it, such as ``3.11``."""
    return f"{version[0]}.{version[1]}"


def _dump(value: Any) -> bytes:
    """Serialize anything: plainly if it is made of builtin types alone, else with cloudpickle."""
    buffer = io.BytesIO()
    buffer.write(PLAIN)
    try:
        _PlainPickler(buffer, 5).dump(value)
        return squeeze(buffer.getvalue())
    except _NotPlain:
        pass
    except RecursionError as error:
        raise SerializeError(f"{_short(value)} cannot be serialized: it is nested too deeply") from error
    try:
        return squeeze(CLOUD + bytes(PYTHON) + by_value.dumps(value))
    except Exception as error:  # pickling runs code of any library, which may raise anything
        raise SerializeError(f"{_short(value)} cannot be serialized: {_why(error)}") from error


def _load(data: bytes) -> Any:
    """Read bytes of ``_dump``."""
    if not data:
        raise DeserializeError("there are no bytes to read")
    codec = data[0]
    if codec == _Z:
        data = unsqueeze(data)
        codec = data[0] if data else 0
    try:
        if codec == _P:
            return _unpickle(memoryview(data)[1:])
        if codec != _C:
            raise DeserializeError(f"unknown codec {data[:1]!r}: its writer runs a newer Umbel")
        if (data[1], data[2]) != PYTHON and _CODE_MARK in data:
            made_by = version_text((data[1], data[2]))
            raise VersionMismatch(
                f"a value made by Python {made_by} holds code, which Python {version_text(PYTHON)} "
                "cannot read: use the same version on both sides",
                details={"writer": made_by, "reader": version_text(PYTHON)},
            )
        return _unpickle(memoryview(data)[3:])
    except DeserializeError:
        raise
    except Exception as error:  # unpickling imports and runs code of any library
        raise DeserializeError(f"a value cannot be loaded here: {_why(error)}") from error


def _split_function(data: bytes) -> tuple[dict[str, Any], memoryview | bytes]:
    if data[:4] != FUNCTION_MAGIC:
        raise DeserializeError("these bytes are no serialized function")
    end = 8 + int.from_bytes(data[4:8], "big")
    try:
        header = json.loads(data[8:end])
    except (ValueError, RecursionError) as error:
        raise DeserializeError("a serialized function has a damaged header") from error
    if not isinstance(header, dict) or header.get("codec") != "cloudpickle":
        raise DeserializeError("a function uses an unknown codec: its writer runs a newer Umbel")
    return header, data[end:]


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _short(value: Any) -> str:
    return f"a value of type {type(value).__qualname__}"
