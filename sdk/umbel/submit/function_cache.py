"""Functions serialized once per executor, not once per call."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from ..serialization.codec import FunctionBody, dump_function

#: Maximum number of functions that one executor caches.
CACHE_SIZE = 256
_MISSING = object()


class _Entry(NamedTuple):
    function: Callable[..., Any]  # referenced, so that no other object gets its id
    globals: list[tuple[dict[str, Any], str, Any]]
    cells: list[tuple[Any, Any]]
    body: FunctionBody

    def is_valid(self) -> bool:
        """Return whether every variable that the function refers to still has the serialized value."""
        for namespace, name, value in self.globals:
            if namespace.get(name, _MISSING) is not value:
                return False
        for cell, value in self.cells:
            if _content(cell) is not value:
                return False
        return True


class FunctionCache:
    """Serialized functions by identity. A function whose variables were reassigned is serialized again.

    A change *inside* a variable's value (an item of a global list) is not detected: pass such values as
    arguments. Methods, partials and other callables contain objects, so they are serialized each time. Equal
    code has one ``FunctionBody``. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._bodies: OrderedDict[bytes, FunctionBody] = OrderedDict()

    def get(self, fn: Callable[..., Any]) -> FunctionBody:
        """Return a serialized function. Raises SerializeError, TypeError."""
        entry = self._entries.get(id(fn))
        if entry is not None and entry.is_valid():
            return entry.body
        captured = _captured(fn) if isinstance(fn, FunctionType) else ([], [])
        body = self._shared(dump_function(fn))
        if isinstance(fn, (FunctionType, BuiltinFunctionType)):
            with self._lock:
                self._entries[id(fn)] = _Entry(fn, *captured, body)
                if len(self._entries) > CACHE_SIZE:
                    self._entries.popitem(last=False)
        return body

    def _shared(self, body: FunctionBody) -> FunctionBody:
        digest = hashlib.sha256(body.data).digest()
        with self._lock:
            body = self._bodies.setdefault(digest, body)
            if len(self._bodies) > CACHE_SIZE:
                self._bodies.popitem(last=False)
        return body


def _captured(fn: FunctionType) -> tuple[list[tuple[dict[str, Any], str, Any]], list[tuple[Any, Any]]]:
    """Return the variables, with their values, that ``fn`` and the functions in them refer to."""
    found_globals: list[tuple[dict[str, Any], str, Any]] = []
    found_cells: list[tuple[Any, Any]] = []
    waiting: list[FunctionType] = [fn]
    seen: set[int] = set()
    while waiting:
        function = waiting.pop()
        if id(function) in seen:
            continue
        seen.add(id(function))
        values = []
        for name in _names(function.__code__):
            value = function.__globals__.get(name, _MISSING)
            if value is not _MISSING and not isinstance(value, ModuleType):
                found_globals.append((function.__globals__, name, value))
                values.append(value)
        for cell in function.__closure__ or ():
            found_cells.append((cell, _content(cell)))
            values.append(_content(cell))
        waiting.extend(value for value in values if isinstance(value, FunctionType))
    return found_globals, found_cells


@functools.lru_cache(maxsize=4096)
def _names(code: CodeType) -> frozenset[str]:
    return frozenset(_all_names(code))


def _all_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _all_names(constant)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING  # not assigned yet
