"""Splits a callable into its code, which is registered once, and its state, which travels with each call.

The callable is pickled as it is, except that functions and classes that would travel as code are replaced by
their numbers in a table. Functions that are created again and again (lambdas, closures) are replaced by a
template with the same code and globals; their defaults, variables and attributes are part of the state.
``bound`` puts both together.

An object that the code refers to as well, such as a global variable, must stay one object: ``is`` and changes
in place depend on it. It becomes an item of the table, too.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from types import CellType, FunctionType, ModuleType
from typing import Any, NamedTuple

from cloudpickle.cloudpickle import _find_imported_submodules

from . import bound, wrappers
from .by_value import Pickler
from .snapshot import find_by_name

#: Functions that the pickle of a state calls.
_CALLED = frozenset({bound.item, bound.make_copy, bound.fill_copy})
#: Maximum number of templates.
MAX_TEMPLATES = 1_024


class Split(NamedTuple):
    """A callable in two parts: its pickled state, and the functions and classes that the state refers to.

    ``pickler``: the pickler of the state.
    """

    state: bytes
    table: tuple[Any, ...]
    pickler: Pickler


class Templates:
    """Functions without state, one for all functions of equal code. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[Any, ...], FunctionType] = OrderedDict()

    def add(self, fn: FunctionType) -> bool:
        """Make the template of a function; return False if there is one."""
        if _key(fn) in self._known:
            return False
        self.get(fn)
        return True

    def get(self, fn: FunctionType) -> FunctionType:
        """Return the template of a function, the same object for all functions of equal code."""
        key = _key(fn)
        template = self._known.get(key)
        if template is None:
            template = _template(fn)
            with self._lock:
                template = self._known.setdefault(key, template)
                if len(self._known) > MAX_TEMPLATES:
                    self._known.popitem(last=False)
        return template


def is_distinct(fn: FunctionType) -> bool:
    """Return whether a function is not the one that its module has under its name.

    Lambdas and functions that other functions define are usually created again and again.
    """
    module, qualname = fn.__module__, fn.__qualname__
    return not isinstance(module, str) or find_by_name(module, qualname) is not fn


def split(value: Any, templates: Templates, table: tuple[Any, ...] = ()) -> Split:
    """Split a callable. Raises any exception of pickling.

    ``table``: items that the table begins with; their numbers replace them in the state.
    """
    pickler = _SharingSplitter(templates, table) if table else _Splitter(templates)
    state = b"".join(pickler.pieces(value))
    return Split(state, tuple(pickler.table), pickler)


def _key(fn: FunctionType) -> tuple[Any, ...]:
    # a template references its code and its globals, so their ids are not used again
    return (id(fn.__code__), id(fn.__globals__), fn.__name__, fn.__qualname__, fn.__module__, fn.__doc__)


def _template(fn: FunctionType) -> FunctionType:
    return bound.with_cells(fn, tuple(CellType() for _ in fn.__code__.co_freevars))


class _Splitter(Pickler):
    """Pickles a state; ``table``: the functions and classes that it refers to."""

    def __init__(self, templates: Templates):
        super().__init__()
        self.table: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._templates = templates

    def reducer_override(self, obj: Any) -> Any:
        """Replace functions, classes and modules that would travel as code."""
        kind = type(obj)
        if kind is FunctionType:
            if obj in _CALLED or self.has_name(obj):
                return NotImplemented
            if wrappers.is_dispatcher(obj) or not is_distinct(obj):
                return self._item(obj)
            template = self._number(self._templates.get(obj))
            return (
                bound.make_copy,
                (template, self.cells_of(obj)),
                _state_of(obj),
                None,
                None,
                bound.fill_copy,
            )
        if issubclass(kind, type):
            if obj.__module__ != "builtins" and self.is_code(obj):
                return self._item(obj)
        elif issubclass(kind, ModuleType):
            if self.is_local(obj.__name__):
                return self._item(obj)
        elif kind is wrappers.CACHED and not self.has_name(obj):
            return self._item(obj)
        return super().reducer_override(obj)

    def _number(self, obj: Any) -> int:
        number = self._numbers.get(id(obj))
        if number is None:
            number = self._numbers[id(obj)] = len(self.table)
            self.table.append(obj)  # referenced, so that no other object gets its id
        return number

    def _item(self, obj: Any) -> Any:
        return bound.item, (self._number(obj),)


class _SharingSplitter(_Splitter):
    """Replaces the objects of a given table, which may be of any type, by their numbers."""

    def __init__(self, templates: Templates, table: tuple[Any, ...]):
        super().__init__(templates)
        self.table += table
        self._numbers.update((id(obj), number) for number, obj in enumerate(table))
        self._given = dict(self._numbers)

    def persistent_id(self, obj: Any) -> int | None:
        """Return the number of an object of the given table."""
        return self._given.get(id(obj))


def _state_of(fn: FunctionType) -> tuple[Any, ...]:
    """Return what distinguishes a function from its template; ``bound.fill_copy`` sets it."""
    cells = {}
    imported: list[ModuleType] = []
    for number, cell in enumerate(fn.__closure__ or ()):
        try:
            cells[number] = cell.cell_contents
        except ValueError:
            pass  # not assigned yet
    if any(type(value) is ModuleType for value in cells.values()):
        # submodules of packages in variables, which loading the state imports
        imported = _find_imported_submodules(fn.__code__, cells.values())
    # copies: whose dictionaries these are makes no difference
    keywords = dict(fn.__kwdefaults__) if fn.__kwdefaults__ else None
    return fn.__defaults__, keywords, cells, {**vars(fn)}, {**fn.__annotations__}, imported
