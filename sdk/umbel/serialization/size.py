"""Which variable makes a function too large or impossible to serialize."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any

from cloudpickle.cloudpickle import _extract_code_globals

from ..protocol.errors import TooLarge
from ..protocol.limits import MAX_FUNCTION_BYTES, MAX_REQUEST_BYTES
from . import by_value
from .snapshot import slot_names

#: Part of a request that is not the function's bytes or its source (bytes).
_OVERHEAD = 32 * 1024


def check_size(fn: Callable[..., Any], name: str, data: bytes, source: str | None) -> None:
    """Raise TooLarge, naming the largest variable, if a function does not fit in a request."""
    encoded = len(data) * 4 // 3 + len(json.dumps(source)) + _OVERHEAD
    if len(data) <= MAX_FUNCTION_BYTES and encoded <= MAX_REQUEST_BYTES:
        return
    where, value, size = _largest(fn, name)
    raise TooLarge(
        f"function {name!r} has {len(data):,} bytes with everything that it refers to, the limit is about "
        f"{MAX_REQUEST_BYTES * 3 // 4:,}. The largest part is {where}: a {type(value).__qualname__} of "
        f"{size:,} bytes. Pass it as an argument, or write it to a file that the endpoint can read",
        details={"size": len(data), "limit": MAX_FUNCTION_BYTES, "variable": where},
    )


def _largest(fn: Any, name: str) -> tuple[str, Any, int]:
    """Return name, value and size of the largest object that a function refers to."""
    found: tuple[str, Any, int] = (f"{name!r} itself", fn, 0)
    for where, value in _parts(fn, name):
        try:
            size = len(by_value.dumps(value))
        except Exception:  # pickling runs code of any library
            continue
        if size > found[2]:
            found = where, value, size
    where, value, _ = found
    if value is not fn and isinstance(value, (FunctionType, MethodType, functools.partial)):
        inner = _largest(value, getattr(value, "__qualname__", where))
        # a helper function is large because of one of its own variables
        return inner if inner[2] > found[2] / 2 else found
    return found


def find_unserializable(fn: Any, name: str) -> str | None:
    """Return which of the variables that a callable refers to cannot be pickled; None if it is not known."""
    found: str | None = None
    seen: list[Any] = []
    try:
        while all(fn is not other for other in seen):
            seen.append(fn)
            for where, value in _parts(fn, name):
                if not _is_serializable(value):
                    found = where
                    fn, name = value, _name(value)
                    break
    except Exception:  # reading an attribute runs code of any class
        pass
    return found


def _is_serializable(value: Any) -> bool:
    try:
        by_value.dumps(value)
    except Exception:  # pickling runs code of any library
        return False
    return True


def _name(value: Any) -> str:
    if isinstance(value, functools.partial):
        return _name(value.func)
    return str(getattr(value, "__qualname__", None) or type(value).__qualname__).replace("<locals>.", "")


def _parts(fn: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(fn, functools.partial):
        yield from ((f"argument {number} of the partial", value) for number, value in enumerate(fn.args))
        yield from ((f"argument {key!r} of the partial", value) for key, value in fn.keywords.items())
        yield f"the function of the partial {name!r}", fn.func
    elif isinstance(fn, MethodType):
        yield f"the object of method {name!r}", fn.__self__
    elif isinstance(fn, FunctionType):
        for variable in _extract_code_globals(fn.__code__):
            if variable in fn.__globals__:
                yield f"variable {variable!r} of {name!r}", fn.__globals__[variable]
        for variable, cell in zip(fn.__code__.co_freevars, fn.__closure__ or ()):
            try:
                yield f"variable {variable!r} of {name!r}", cell.cell_contents
            except ValueError:
                pass  # not assigned yet
        for value in fn.__defaults__ or ():
            yield f"a default of {name!r}", value
        for key, value in (fn.__kwdefaults__ or {}).items():
            yield f"default {key!r} of {name!r}", value
    else:
        values = getattr(fn, "__dict__", {})
        slots = {key: getattr(fn, key, None) for key in slot_names(type(fn))}
        yield from ((f"attribute {key!r} of {name!r}", value) for key, value in {**slots, **values}.items())
