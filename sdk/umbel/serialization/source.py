"""Functions as source text, for endpoints with another Python version.

A function is rebuilt from source only if everything that the text refers to can be restored: modules and
objects of installed modules by import, plain constants by value, and other such functions by their own
source. Closures cannot be rebuilt.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import functools
import inspect
import json
import linecache
import symtable
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ..exceptions import DeserializeError
from .local_modules import is_local

_BUILTINS = frozenset(dir(builtins))


@dataclass
class Fallback:
    """Everything needed to rebuild a function from source text.

    ``sources``: source texts in the order of execution; ``imports``: name → [module, attribute or None];
    ``values``: name → JSON value; ``name``: the name of the function.
    """

    name: str
    sources: list[str] = field(default_factory=list)
    imports: dict[str, list[str | None]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the fallback as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Fallback:
        """Return the fallback of an object of ``to_json``. Raises DeserializeError."""
        try:
            return cls(**data)
        except TypeError as error:
            raise DeserializeError(f"the source fallback of a function is damaged: {error}") from None


class _NoFallback(Exception):
    """The function cannot be rebuilt from source."""


def find_source(fn: Callable[..., Any]) -> tuple[str | None, Fallback | None]:
    """Return the source of ``fn``, for people, and the fallback to rebuild it; each may be None."""
    try:
        text = textwrap.dedent(inspect.getsource(fn))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return None, None
    inner = inspect.unwrap(fn)
    if not isinstance(inner, FunctionType) or not isinstance(fn, FunctionType):
        return text, None
    if not _is_current(inner):
        return None, None
    fallback = Fallback(inner.__name__)
    try:
        _collect(inner, fallback, set())
    except _NoFallback:
        return text, None
    return text, fallback


def rebuild(fallback: Fallback) -> Callable[..., Any]:
    """Rebuild the function. Raises DeserializeError if an import or the source itself fails here."""
    namespace: dict[str, Any] = {"__name__": "umbel_source", **fallback.values}
    try:
        for alias, (module, attribute) in fallback.imports.items():
            # the same as ``import module`` or ``from module import attribute``
            found = __import__(str(module), fromlist=["_"])
            namespace[alias] = getattr(found, attribute) if attribute else found
        for text in fallback.sources:
            # annotations are not evaluated: they may name objects that exist on the other side only
            flags = __future__.annotations.compiler_flag
            exec(compile(text, f"<source of {fallback.name}>", "exec", flags, dont_inherit=True), namespace)
        function: Callable[..., Any] = namespace[fallback.name]
        return function
    except Exception as error:  # the source is the user's and may raise anything
        raise DeserializeError(
            f"function {fallback.name!r} cannot be rebuilt from source here: {type(error).__name__}: {error}"
        ) from error


def _collect(fn: FunctionType, fallback: Fallback, seen: set[str]) -> None:
    """Add ``fn`` and everything that it refers to, objects that decorators and defaults may call first."""
    if fn.__code__.co_freevars or fn.__name__ == "<lambda>":
        raise _NoFallback
    seen.add(fn.__name__)
    try:
        text = textwrap.dedent(inspect.getsource(fn))
        names = _global_names(text)
    except (OSError, TypeError, SyntaxError):
        raise _NoFallback from None
    if not _is_current(fn):
        raise _NoFallback
    for name in sorted(names - seen):
        if name in fn.__globals__:
            _add(name, fn.__globals__[name], fallback, seen)
    fallback.sources.append(text)


def _is_current(fn: FunctionType) -> bool:
    """Return False if the file was edited since ``fn`` was defined, or the code of ``fn`` was replaced."""
    lines = linecache.getlines(fn.__code__.co_filename, fn.__globals__)
    try:
        return fn.__code__ in code_in("".join(lines))
    except (SyntaxError, ValueError, RecursionError):
        return False


@functools.lru_cache(maxsize=8)
def code_in(text: str) -> frozenset[CodeType]:
    """Return all code objects of a file. Two are equal if text and line are, whatever the file."""
    found: set[CodeType] = set()
    waiting = [compile(text, "<source>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)]
    while waiting:
        inner = [constant for constant in waiting.pop().co_consts if isinstance(constant, CodeType)]
        found.update(inner)
        waiting += inner
    return frozenset(found)


def _add(name: str, value: Any, fallback: Fallback, seen: set[str]) -> None:
    seen.add(name)
    if isinstance(value, ModuleType):
        if is_local(value):
            raise _NoFallback
        fallback.imports[name] = [value.__name__, None]
    elif _is_plain(value):
        fallback.values[name] = value
    elif (home := _importable(value)) is not None:
        fallback.imports[name] = home
    elif isinstance(value, FunctionType) and inspect.unwrap(value).__name__ == name:
        inner = inspect.unwrap(value)
        assert isinstance(inner, FunctionType)
        _collect(inner, fallback, seen)
    elif name not in _BUILTINS:
        raise _NoFallback


def _importable(value: Any) -> list[str | None] | None:
    """Return module and attribute of an object of an installed module, or None."""
    module = inspect.getmodule(value)
    name = getattr(value, "__name__", None)
    if module is None or not isinstance(name, str):
        return None
    if module.__name__ == "__main__" or is_local(module):
        return None
    return [module.__name__, name] if getattr(module, name, None) is value else None


def _is_plain(value: Any) -> bool:
    """Return whether JSON preserves a value exactly."""
    if type(value) not in (int, float, str, bool, list, dict, type(None)):
        return False
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _global_names(text: str) -> set[str]:
    """Return the global names that a source text reads, except those in annotations."""
    names: set[str] = set()
    waiting = [symtable.symtable("from __future__ import annotations\n" + text, "<source>", "exec")]
    while waiting:
        table = waiting.pop()
        if "annotation" in str(table.get_type()).lower():
            continue
        outermost = table.get_type() == "module"
        names.update(
            s.get_name() for s in table.get_symbols() if s.is_referenced() and (outermost or s.is_global())
        )
        waiting.extend(table.get_children())
    return names
