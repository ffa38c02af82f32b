"""cloudpickle, with modules that are not installed serialized by value."""

from __future__ import annotations

import functools
import sys
from collections import ChainMap
from collections.abc import Callable
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple, TypeVar

import cloudpickle
from cloudpickle.cloudpickle import (
    _class_reduce,
    _decompose_typevar,
    _dynamic_class_reduce,
    _lookup_module_and_qualname,
    _make_empty_cell,
    _make_typevar,
    _should_pickle_by_reference,
)

from . import classes, local_imports, packages, wrappers
from .local_modules import is_by_value, is_registered
from .restore import choose, fill_chosen, fill_function, fill_module, make_function, make_module

T = TypeVar("T")
#: Position of the file name among the arguments of the constructor of code.
_FILE_NAME = 10


class Pickled(bytes):
    """A pickle.

    ``packages``: the local packages and modules whose code is in it. ``pickler``: the pickler that made it.
    """

    packages: tuple[str, ...] = ()
    pickler: Pickler


class _Writer(NamedTuple):
    """The file of a pickler, which writes small things together and large ones alone."""

    write: Callable[[bytes], None]


def dumps(value: Any) -> Pickled:
    """Pickle any object with cloudpickle, protocol 5; local modules by value where that is possible.

    Raises any exception of pickling. Takes no lock, because pickling runs code of any library.
    """
    return _try(lambda pickler: pickler.pickle(value))


def dump_pieces(value: Any) -> list[bytes]:
    """Like ``dumps``, but return the pieces of the pickle: large arrays need not be copied to join them."""
    return _try(lambda pickler: pickler.pieces(value))


def _try(pickle: Callable[[Pickler], T]) -> T:
    pickler = Pickler()
    try:
        return pickle(pickler)
    except Exception as error:  # pickling runs code of any library, which may raise anything
        if not pickler.used_local:
            raise
        by_value_error = error
    # A module that contains, say, a lock cannot be pickled; it may be installed at the endpoint.
    try:
        return pickle(Pickler(local_by_value=False))
    except Exception:  # as above; the first error is the more useful one
        raise by_value_error from None


def _reduce_code(code: CodeType) -> Any:
    """Reduce code like cloudpickle, but keep the file name, which cloudpickle omits since 3.1.3."""
    make, values, *more = cloudpickle.Pickler.dispatch_table[CodeType](code)
    # a new string, so that equal code gives equal bytes even if other objects share the name
    values = (*values[:_FILE_NAME], "".join(code.co_filename), *values[_FILE_NAME + 1 :])
    return (make, values, *more)


def _copy_cell(cell: CellType) -> CellType:
    try:
        return CellType(cell.cell_contents)
    except ValueError:  # not assigned yet
        return CellType()


def _qualname(obj: Any) -> str | None:
    """Return the name of an object in its module, or None if the module does not have it."""
    if issubclass(type(obj), ModuleType):
        return "" if sys.modules.get(obj.__name__) is obj else None
    found = _lookup_module_and_qualname(obj, name=obj.__name__ if type(obj) is TypeVar else None)
    return None if found is None else str(found[1])


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles functions and classes of modules that are not installed by value."""

    dispatch_table = ChainMap({CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)

    def __init__(self, local_by_value: bool = True):
        self._pieces: list[bytes] = []
        super().__init__(_Writer(self._pieces.append), protocol=5)
        self.used_local = False
        #: The digests of the local packages whose functions and classes are in the pickle.
        self.packages: dict[str, str | None] = {}
        self._local_by_value = local_by_value
        #: Cells of functions, whose contents are part of the functions.
        self._cells: dict[int, CellType] = {}

    def pickle(self, value: Any) -> Pickled:
        """Return the pickle of a value."""
        pickled = Pickled(b"".join(self.pieces(value)))
        pickled.packages = tuple(sorted(self.packages))
        pickled.pickler = self
        return pickled

    def pieces(self, value: Any) -> list[bytes]:
        """Return the pieces of the pickle of a value."""
        self.dump(value)
        return self._pieces

    def objects(self) -> dict[int, Any]:
        """Return the objects that were pickled, by their ids. They are referenced, so ids are not reused."""
        return {key: obj for key, (_, obj) in self.memo.copy().items()}

    def reducer_override(self, obj: Any) -> Any:
        """Choose how to pickle functions, classes and modules."""
        # type, not isinstance: that would resolve a lazy proxy
        kind = type(obj)
        if kind is FunctionType:
            return self._choice(obj, self._reduce_function(obj))
        if issubclass(kind, type):
            reduced = _dynamic_class_reduce(obj) if self.is_local(obj.__module__) else _class_reduce(obj)
            return self._choice(obj, classes.reduce(obj, reduced))
        if issubclass(kind, ModuleType):
            if self.is_local(obj.__name__):
                state = {name: value for name, value in vars(obj).items() if name != "__builtins__"}
                return self._choice(obj, (make_module, (obj.__name__,), state, None, None, fill_module))
        elif kind is TypeVar and self.is_local(obj.__module__):
            return self._choice(obj, (_make_typevar, _decompose_typevar(obj)))
        elif kind is wrappers.CACHED and not self.has_name(obj):
            return self._choice(obj, wrappers.reduce_cached(obj))
        elif kind is CellType and id(obj) in self._cells:
            return _make_empty_cell, ()
        elif kind is functools.cached_property:
            return wrappers.reduce_cached_property(obj)
        return NotImplemented

    def _reduce_function(self, fn: FunctionType) -> Any:
        reduced: Any = NotImplemented if self.has_name(fn) else self._dynamic_function_reduce(fn)
        if reduced is NotImplemented:
            return reduced
        if wrappers.is_dispatcher(fn):
            return wrappers.reduce_dispatcher(fn)
        make, args, state = reduced[:3]
        if fn.__closure__:
            # the cells themselves: functions that share a variable (``nonlocal``) still share it
            contents = tuple(map(_copy_cell, fn.__closure__))
            args = (*args[:-1], self.cells_of(fn))
            state = (state[0], {**state[1], "__closure__": contents})
        modules = local_imports.find(fn) if self._local_by_value else {}
        self.used_local |= bool(modules)
        return make_function, (bool(modules), make, args), (state, modules), None, None, fill_function

    def cells_of(self, fn: FunctionType) -> tuple[CellType, ...]:
        """Return the cells of a function, which are pickled without their contents."""
        cells = fn.__closure__ or ()
        self._cells.update((id(cell), cell) for cell in cells)
        return cells

    def _choice(self, obj: Any, reduced: Any) -> Any:
        """Add the name of an object of a local package, for a process that has the same package."""
        module = getattr(obj, "__module__" if not issubclass(type(obj), ModuleType) else "__name__", None)
        if not isinstance(reduced, tuple) or not self.is_local(module):
            return reduced
        package = str(module).partition(".")[0]
        if package not in self.packages:
            self.packages[package] = packages.loaded_digest(package)
        digest, qualname = self.packages[package], _qualname(obj)
        if digest is None or qualname is None:
            return reduced
        make, args, *rest = reduced
        reference = (package, digest, str(module), qualname)
        if not rest:
            return choose, (reference, make, args)
        return choose, (reference, make, args), (reference, rest[3], rest[0]), None, None, fill_chosen

    def has_name(self, obj: Any) -> bool:
        """Return whether a function travels as the name of its module and its own."""
        if self.is_local(obj.__module__) or is_registered(obj.__module__):
            return False
        return _lookup_module_and_qualname(obj) is not None

    def is_code(self, cls: type) -> bool:
        """Return whether a class travels as code."""
        return self.is_local(cls.__module__) or not _should_pickle_by_reference(cls)

    def is_local(self, module: str | None) -> bool:
        """Return whether the functions and classes of a module travel as code because it is not installed."""
        if self._local_by_value and is_by_value(module):
            self.used_local = True
            return True
        return False
