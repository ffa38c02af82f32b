"""Exceptions of users' functions as data, so that they are not unpickled.

The JSON has module, qualname, message, args, fields (attributes of builtin classes and slots), state
(``__dict__``), the traceback as text and the cause. ``tagged`` has the form of the values. An exception is
rebuilt only if its class is an ``Exception`` that this process has imported already or that belongs to the
standard library, and if the rebuilt exception has the same message. Otherwise it becomes a ``TaskError``. The
``TaskError`` has the remote traceback in both cases.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from types import MemberDescriptorType
from typing import Any

from ..exceptions import Absent
from ..protocol.errors import TaskError
from . import tagged

#: Longest traceback (characters); the middle of a longer one is removed.
MAX_TRACEBACK = 64 * 1024
MAX_MESSAGE = 16 * 1024
MAX_CAUSES = 8
#: Largest argument or attribute (characters of JSON) that is sent.
MAX_PLAIN = 256 * 1024
#: How much of the message must be the same (characters).
_COMPARED = 1_000
#: Fields that are only hints for people, or computed from the arguments.
_NO_FIELDS = frozenset({"AttributeError.obj", "BaseExceptionGroup.message", "BaseExceptionGroup.exceptions"})
#: Modules of the standard library that may be imported to find an exception.
_STANDARD = frozenset("""
    asyncio.exceptions binascii concurrent.futures configparser copy csv dataclasses decimal email.errors
    graphlib http.client ipaddress json.decoder locale lzma multiprocessing.context pickle queue re
    shutil socket sqlite3 ssl statistics struct subprocess tarfile urllib.error xml.etree.ElementTree
    xml.parsers.expat zipfile zlib zoneinfo
    """.split())
_HEAP_TYPE = 1 << 9


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
        The exception, with a TaskError that has the remote traceback as its ``__cause__``; or that TaskError,
        if the class has not been imported here or the exception cannot be rebuilt with the same message. The
        exception that caused it is the ``__context__`` of the one and the ``__cause__`` of the other.
    """
    try:
        record = json.loads(data)
        described, text = _described(record), record.get("traceback")
        cause = _rebuild_causes(record.get("cause"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return TaskError("the description of the task's exception is damaged", code=code, task_id=task_id)
    error = TaskError(described, code=code, task_id=task_id, traceback=str(text) if text else None)
    error.__cause__ = cause
    original = _rebuild(record)
    if original is None:
        return error
    original.__context__ = cause
    original.__cause__ = error
    return original


def _rebuild_causes(record: dict[str, Any] | None) -> BaseException | None:
    """Rebuild a chain of causes."""
    if record is None:
        return None
    exc = _nested(record)
    exc.__cause__ = _rebuild_causes(record.get("cause"))
    return exc


def shorten(text: str, limit: int) -> str:
    """Remove the middle of a text of more than ``limit`` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _describe(exc: BaseException, causes: int, depth: int = 0) -> dict[str, Any]:
    cls = type(exc)
    cause = exc.__cause__
    if cause is None and not exc.__suppress_context__:
        cause = exc.__context__
    return {
        "module": str(cls.__module__),
        "qualname": cls.__qualname__,
        "message": shorten(_message(exc), MAX_MESSAGE),
        "args": [_encode(value, depth) for value in exc.args],
        "fields": {name: _encode(value, depth) for name, value in _fields(exc).items()},
        "state": {str(name): _encode(value, depth) for name, value in getattr(exc, "__dict__", {}).items()},
        "cause": _describe(cause, causes - 1) if cause is not None and causes else None,
    }


def _message(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:  # __str__ of any class
        return "(its message cannot be read: __str__ raised)"


def _encode(value: Any, depth: int) -> Any:
    return tagged.encode(value, MAX_PLAIN, lambda exc, deeper: _describe(exc, 0, deeper), depth)


def _fields(exc: BaseException) -> dict[str, Any]:
    """Return attributes that are neither in ``args`` nor in ``__dict__``: of builtin classes, and slots."""
    fields = {}
    for cls in type(exc).__mro__:
        for name, attribute in vars(cls).items():
            if type(attribute) is not MemberDescriptorType or f"{cls.__name__}.{name}" in _NO_FIELDS:
                continue
            value = getattr(exc, name, None)
            if value is not None and not any(value is argument for argument in exc.args):
                fields[name] = value
    return fields


def _rebuild(record: dict[str, Any]) -> BaseException | None:
    """Rebuild an exception, or return None. Runs no ``__init__`` of a class that is not builtin."""
    try:
        cls = _find_exception(str(record["module"]), str(record["qualname"]))
        if cls is None:
            return None
        exc = _make(cls, [_decode(value) for value in record["args"]])
        for name, value in record.get("fields", {}).items():
            _set_field(exc, name, value)
        notes = _set_state(exc, record.get("state", {}))
        # a class may compute its message from something that did not travel
        if str(exc)[:_COMPARED] != record["message"][:_COMPARED]:
            return None
        if notes:
            exc.__dict__["__notes__"] = [*exc.__dict__.get("__notes__", []), *notes]
        return exc
    except Exception:  # the record is damaged, or the class is another one here
        return None


def _make(cls: type[Exception], args: list[Any]) -> Exception:
    """Make an exception as its first builtin base does."""
    base: Any = next(c for c in cls.__mro__ if not c.__flags__ & _HEAP_TYPE)
    exc: Exception = base.__new__(cls, *args)
    base.__init__(exc, *args)
    exc.args = tuple(args)
    return exc


def _set_field(exc: Exception, name: str, encoded: Any) -> None:
    value = _decode(encoded)
    if type(value) is Absent:
        return
    if not any(type(vars(cls).get(name)) is MemberDescriptorType for cls in type(exc).__mro__):
        return
    try:
        object.__setattr__(exc, name, value)
    except (AttributeError, TypeError):
        pass  # read-only: the builtin class has computed it from the arguments


def _set_state(exc: Exception, state: dict[str, Any]) -> list[str]:
    """Set the attributes; return a note for each that did not travel."""
    exc.__dict__.clear()
    notes = []
    for name, encoded in state.items():
        value = _decode(encoded)
        if type(value) is Absent:
            notes.append(f"attribute {name!r} of this exception did not travel: {value.text}")
            if not hasattr(type(exc), name):
                continue
            # otherwise the default of the class would stand for the value
        exc.__dict__[name] = value
    return notes


def _decode(encoded: Any) -> Any:
    return tagged.decode(encoded, _nested)


def _nested(record: dict[str, Any]) -> BaseException:
    return _rebuild(record) or TaskError(_described(record))


def _described(record: dict[str, Any]) -> str:
    name = f"{record['module']}.{record['qualname']}".removeprefix("builtins.")
    message = str(record["message"])
    return f"{name}: {message}" if message else name


def _find_exception(module: str, qualname: str) -> type[Exception] | None:
    """Return an exception class that is imported here, or one of the standard library."""
    if module in _STANDARD and module not in sys.modules:
        importlib.import_module(module)
    found = tagged.find_class(module, qualname)
    if found is not None and issubclass(found, Exception) and found.__module__ == module:
        return found
    return None
