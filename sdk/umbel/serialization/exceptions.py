"""Exceptions of users' functions as data, so that they are not unpickled.

The JSON has module, qualname, message, args and state (both only if they are plain), the traceback as text
and the cause. An exception is rebuilt only if its class is an ``Exception`` that this process has imported
already, and if the rebuilt exception has the same message. Otherwise it becomes a ``TaskError``. The
``TaskError`` has the remote traceback in both cases.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

from ..protocol.errors import TaskError

#: Longest traceback (characters); the middle of a longer one is removed.
MAX_TRACEBACK = 64 * 1024
MAX_MESSAGE = 16 * 1024
MAX_CAUSES = 8
#: Largest args or state (characters of JSON) that are sent.
MAX_PLAIN = 256 * 1024
_TUPLE = "__tuple__"


class _NotPlain(Exception):
    """A value does not consist of JSON types and tuples only."""


def dump_exception(exc: BaseException) -> bytes:
    """Describe an exception as JSON. Never fails because of the content of the exception.

    Args:
        exc: The exception, with its traceback and causes.

    Returns:
        A JSON object, encoded.
    """
    data = _describe(exc, MAX_CAUSES)
    try:
        text = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
    except Exception:  # formatting calls __str__ and __repr__ of any class
        text = "".join(traceback.format_tb(exc.__traceback__))
    data["traceback"] = shorten(text, MAX_TRACEBACK)
    return json.dumps(data, separators=(",", ":")).encode()


def load_exception(data: bytes, task_id: str | None = None, code: str = "TASK_ERROR") -> BaseException:
    """Rebuild an exception.

    Args:
        data: Result of ``dump_exception``.
        task_id: Id of the task, for the TaskError.
        code: Code of the task, for the TaskError.

    Returns:
        The exception, with a TaskError that has the remote traceback as its cause; or that TaskError, if the
        class has not been imported here or the exception cannot be rebuilt with the same message.
    """
    try:
        record = json.loads(data)
        name = f"{record['module']}.{record['qualname']}".removeprefix("builtins.")
        message, text = str(record["message"]), record.get("traceback")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return TaskError("the description of the task's exception is damaged", code=code, task_id=task_id)
    described = f"{name}: {message}" if message else name
    error = TaskError(described, code=code, task_id=task_id, traceback=str(text) if text else None)
    original = _rebuild(record)
    if original is None:
        return error
    original.__cause__ = error
    return original


def shorten(text: str, limit: int) -> str:
    """Remove the middle of a text of more than ``limit`` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _describe(exc: BaseException, causes: int) -> dict[str, Any]:
    cls = type(exc)
    try:
        message = str(exc)
    except Exception:  # __str__ of any class
        message = "(its message cannot be read: __str__ raised)"
    cause = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    return {
        "module": str(cls.__module__),
        "qualname": cls.__qualname__,
        "message": shorten(message, MAX_MESSAGE),
        "args": _plain_or_none(list(_arguments(exc))),
        "state": _plain_state(exc),
        "cause": _describe(cause, causes - 1) if cause is not None and causes else None,
    }


def _arguments(exc: BaseException) -> tuple[Any, ...]:
    """Return the constructor arguments, as pickle determines them, so that OSError keeps its file."""
    try:
        reduced = exc.__reduce__()
        if isinstance(reduced, tuple) and reduced[0] is type(exc) and isinstance(reduced[1], tuple):
            return reduced[1]
    except Exception:  # __reduce__ of any class
        pass
    return exc.args


def _plain_state(exc: BaseException) -> dict[str, Any]:
    """Return the attributes that are plain."""
    state = {}
    for name, value in getattr(exc, "__dict__", {}).items():
        plain = _plain_or_none(value)
        if plain is not None or value is None:
            state[str(name)] = plain
    return state


def _plain_or_none(value: Any) -> Any:
    try:
        plain = _encode(value)
        return plain if len(json.dumps(plain)) <= MAX_PLAIN else None
    except (_NotPlain, RecursionError, ValueError):
        return None


def _encode(value: Any) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return [_encode(item) for item in value]
    if kind is tuple:
        return {_TUPLE: [_encode(item) for item in value]}
    if kind is dict and _TUPLE not in value and all(type(key) is str for key in value):
        return {key: _encode(item) for key, item in value.items()}
    raise _NotPlain


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if isinstance(value, dict):
        if _TUPLE in value:
            return tuple(_decode(item) for item in value[_TUPLE])
        return {key: _decode(item) for key, item in value.items()}
    return value


def _rebuild(record: dict[str, Any]) -> BaseException | None:
    """Rebuild the exception, or return None."""
    cls = _find_class(str(record["module"]), str(record["qualname"]))
    if cls is None or record.get("args") is None:
        return None
    try:
        args = _decode(record["args"])
        state = _decode(record.get("state") or {})
    except (RecursionError, TypeError, KeyError):
        return None
    for make in (_call_class, _without_init):
        try:
            exc = make(cls, args)
            exc.__dict__.update(state)
            # a class may store other arguments than it takes: check that the message is the same
            if shorten(str(exc), MAX_MESSAGE) == record["message"]:
                return exc
        except Exception:  # a class of any library may raise anything
            continue
    return None


def _call_class(cls: type[Exception], args: list[Any]) -> Exception:
    return cls(*args)


def _without_init(cls: type[Exception], args: list[Any]) -> Exception:
    """For classes whose ``__init__`` takes other arguments than it stores in ``args``."""
    exc = cls.__new__(cls, *args)
    exc.args = tuple(args)
    return exc


def _find_class(module: str, qualname: str) -> type[Exception] | None:
    """Return an exception class of a module that is imported already, or None. Imports nothing."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        if found is None or part.startswith("__"):
            return None
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    if isinstance(found, type) and issubclass(found, Exception) and found.__module__ == module:
        return found
    return None
