"""Serialization of functions, calls, results and exceptions.

Only the SDK and the endpoint's runner processes import this; the service stores the bytes unread. The first
bytes name the codec, so that codecs can be added:

========== ==============================================================================
``P``      arguments or a result of builtin types only: a plain pickle, protocol 5
``C``      anything else: two bytes with the writer's Python version, then a cloudpickle
``Z``      one of these, compressed; see ``compression``
``UMBF``   a function: length (4 bytes, big endian) of a JSON header, header, cloudpickle
``{``      an exception: JSON, see ``exceptions``
========== ==============================================================================

Objects defined in ``__main__``, a notebook or a module that is not installed are serialized by value, so an
endpoint needs only installed packages. Code by value works only in the same minor version of Python: in
another version functions are rebuilt from their source text, and if that is impossible, ``VersionMismatch``
names both versions.
"""

# One concept: the codecs of all serialized values, which must be read and changed together.

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
from .bound import Bound
from .compression import COMPRESSED, compress, decompress
from .size import check_size, find_unserializable
from .source import Fallback, find_source, rebuild

PLAIN = b"P"
CLOUD = b"C"
_P, _C, _Z = PLAIN[0], CLOUD[0], COMPRESSED[0]

#: This Python's version, as written into serialized values.
PYTHON: tuple[int, int] = (sys.version_info[0], sys.version_info[1])

#: Exact types whose plain pickle needs no check.
_SCALARS = frozenset({int, float, str, bytes, bool, type(None), complex})
#: Part of the name of each constructor of functions by value: a pickle without it contains no code.
_CODE_MARK = b"make_function"

_pickle = functools.partial(pickle.dumps, protocol=5)
_unpickle = pickle.loads


@dataclass(frozen=True)
class FunctionBody:
    """A serialized function.

    Attributes:
        data (bytes): The serialized function.
        name (str): Its name, for people.
        source (str | None): Its source text, for people; None if it is not known.
        description (str): First line of its docstring.
        local (tuple[str]): Names of the packages and modules that are not installed and travel with it.
    """

    data: bytes
    name: str
    source: str | None
    description: str = ""
    local: tuple[str, ...] = ()


class _NotPlain(Exception):
    """An object does not consist of builtin types only."""


class _PlainPickler(pickle.Pickler):
    """Pickles builtin types in C and raises at every other type."""

    def reducer_override(self, obj: Any) -> Any:
        raise _NotPlain


def dump_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Serialize the arguments of a call.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.

    Returns:
        The payload of the call, for ``Client.submit``.

    Raises:
        SerializeError: An argument cannot be pickled.
    """
    for value in args:
        if type(value) not in _SCALARS:
            return _dump((args, kwargs))
    for value in kwargs.values():
        if type(value) not in _SCALARS:
            return _dump((args, kwargs))
    return compress(PLAIN + _pickle((args, kwargs)))


def load_call(data: bytes | memoryview) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Load the arguments of a call.

    Args:
        data: Result of ``dump_call``.

    Returns:
        Positional and keyword arguments: ``(args, kwargs)``.

    Raises:
        DeserializeError: The arguments cannot be loaded here.
        VersionMismatch: They contain code of another Python version.
    """
    call = _load(data)
    if type(call) is not tuple or len(call) != 2:
        raise DeserializeError("the data contains an object that is not the arguments of a call")
    return call


def dump_result(value: Any) -> bytes:
    """Serialize the result of a call.

    Args:
        value: The result.

    Returns:
        The bytes; ``load_result`` reads them.

    Raises:
        SerializeError: It cannot be pickled.
    """
    if type(value) in _SCALARS:
        return compress(PLAIN + _pickle(value))
    return _dump(value)


def load_result(data: bytes) -> Any:
    """Load the result of a call.

    Args:
        data: Result of ``dump_result``, such as the decoded ``result`` of ``Client.get_task_result``.

    Returns:
        The value.

    Raises:
        DeserializeError: The result cannot be loaded here.
        VersionMismatch: It contains code of another Python version.
    """
    return _load(data)


def dump_function(fn: Callable[..., Any]) -> FunctionBody:
    """Serialize a function or any other callable.

    Args:
        fn: The function, with its environment and limits (``umbel.function``).

    Returns:
        The body: ``data`` (bytes to register), ``name``, and ``source`` if it is known.

    Raises:
        SerializeError: The function or something that it refers to cannot be pickled.
        TooLarge: It is larger than about 9 MiB; the message names the largest variable.
        TypeError: ``fn`` is not callable.
    """
    return describe_function(fn, pickle_function(fn))


def pickle_function(fn: Callable[..., Any]) -> by_value.Pickled:
    """Pickle a callable. Raises SerializeError, TypeError."""
    if not callable(fn):
        raise TypeError(f"{fn!r} is not callable: pass a function")
    try:
        return by_value.dumps(fn)
    except Exception as error:  # pickling runs code of any library, which may raise anything
        name = function_name(fn)
        variable = find_unserializable(fn, name)
        raise SerializeError(
            f"function {name!r} cannot be serialized{f' because of {variable}' if variable else ''}: "
            f"{_reason(error)}"
        ) from error


def describe_function(
    fn: Callable[..., Any], pickled: by_value.Pickled, *, name: str | None = None, bound: Bound | None = None
) -> FunctionBody:
    """Return the body of a callable that ``pickle_function`` has pickled. Raises TooLarge.

    ``bound``: what was pickled instead of it, its code without its state.
    """
    name = name or function_name(fn)
    source, fallback = find_source(fn)
    if bound is not None and (len(bound.table) != 1 or bound.state is not None):
        fallback = None  # the source of one function does not replace other parts
    header: dict[str, Any] = {"codec": "cloudpickle", "python": version_text(PYTHON), "name": name}
    environment = environment_of(fn)
    if environment is not None:
        header["environment"] = environment.to_json()
    limits = limits_of(fn)
    if limits is not None:
        header["limits"] = limits.to_json()
    if fallback is not None:
        header["fallback"] = fallback.to_json()
        if bound is not None:
            header["bound"] = True
    if pickled.packages:
        header["local"] = list(pickled.packages)
    raw = json.dumps(header, separators=(",", ":")).encode()
    data = FUNCTION_MAGIC + len(raw).to_bytes(4, "big") + raw + pickled
    check_size(fn, name, data, source)
    return FunctionBody(data, name, source, _description(fn), pickled.packages)


def load_function(data: bytes) -> Callable[..., Any]:
    """Load a function.

    Args:
        data: ``data`` of the result of ``dump_function``.

    Returns:
        The function.

    Raises:
        DeserializeError: The function cannot be loaded here; usually a package is not installed.
        VersionMismatch: It comes from another Python version and cannot be rebuilt from source.
    """
    header, body = _split_function(data)
    name = header.get("name", "?")
    written_by = str(header.get("python"))
    if written_by != version_text(PYTHON) and _CODE_MARK in body:
        fallback = header.get("fallback")
        if fallback is None:
            raise VersionMismatch(
                f"function {name!r} was serialized by Python {written_by} and cannot be loaded by Python "
                f"{version_text(PYTHON)} or rebuilt from source: use the same version on both sides",
                details={"client": written_by, "worker": version_text(PYTHON)},
            )
        rebuilt = rebuild(Fallback.from_json(fallback))
        return Bound((rebuilt,)) if header.get("bound") else rebuilt
    try:
        fn = _unpickle(body)
    except Exception as error:  # unpickling imports and runs code of any library
        raise DeserializeError(f"function {name!r} cannot be loaded here: {_reason(error)}") from error
    if not callable(fn):
        raise DeserializeError(f"the data of {name!r} contains a {type(fn).__name__}, which is not callable")
    return fn  # type: ignore[no-any-return]


def function_name(fn: Callable[..., Any]) -> str:
    """Return the name of a callable: that of its innermost function."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None) or type(fn).__qualname__
    return str(name).replace("<locals>.", "")


def _description(fn: Callable[..., Any]) -> str:
    documented = fn if not isinstance(fn, functools.partial) else fn.func
    text = getattr(documented, "__doc__", None)
    return text.strip().partition("\n")[0] if isinstance(text, str) else ""


def version_text(version: tuple[int, int]) -> str:
    """Return a version as a string, such as ``3.11``."""
    return f"{version[0]}.{version[1]}"


def _dump(value: Any) -> bytes:
    """Serialize any object: with pickle if it consists of builtin types only, else with cloudpickle."""
    buffer = io.BytesIO()
    buffer.write(PLAIN)
    try:
        _PlainPickler(buffer, 5).dump(value)
        return compress(buffer.getvalue())
    except _NotPlain:
        pass
    except RecursionError as error:
        raise SerializeError(f"{_type_of(value)} cannot be serialized: it is nested too deeply") from error
    try:
        return compress(b"".join([CLOUD, bytes(PYTHON), *by_value.dump_pieces(value)]))
    except Exception as error:  # pickling runs code of any library, which may raise anything
        raise SerializeError(f"{_type_of(value)} cannot be serialized: {_reason(error)}") from error


def _load(data: bytes | memoryview) -> Any:
    """Load the result of ``_dump``."""
    if not data:
        raise DeserializeError("the data is empty")
    codec = data[0]
    if codec == _Z:
        data = decompress(data)
        codec = data[0] if data else 0
    try:
        if codec == _P:
            return _unpickle(memoryview(data)[1:])
        if codec != _C:
            raise DeserializeError(
                f"unknown codec {bytes(data[:1])!r}: it may come from a newer Umbel; upgrade this one"
            )
        if (data[1], data[2]) != PYTHON and _CODE_MARK in bytes(data):
            writer = version_text((data[1], data[2]))
            raise VersionMismatch(
                f"a value of Python {writer} contains code, which Python {version_text(PYTHON)} cannot load: "
                "use the same version on both sides",
                details={"writer": writer, "reader": version_text(PYTHON)},
            )
        return _unpickle(memoryview(data)[3:])
    except DeserializeError:
        raise
    except Exception as error:  # unpickling imports and runs code of any library
        raise DeserializeError(f"a value cannot be loaded here: {_reason(error)}") from error


def _split_function(data: bytes) -> tuple[dict[str, Any], memoryview | bytes]:
    if data[:4] != FUNCTION_MAGIC:
        raise DeserializeError("the data is not a serialized function")
    end = 8 + int.from_bytes(data[4:8], "big")
    try:
        header = json.loads(data[8:end])
    except (ValueError, RecursionError) as error:
        raise DeserializeError("a serialized function has a damaged header") from error
    if not isinstance(header, dict) or header.get("codec") != "cloudpickle":
        raise DeserializeError(
            "a function has an unknown codec: it may come from a newer Umbel; upgrade this one"
        )
    return header, data[end:]


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _type_of(value: Any) -> str:
    return f"a value of type {type(value).__qualname__}"
