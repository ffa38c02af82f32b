"""Callables whose code and state travel apart.

The code is a serialized function, which is registered once: a table of functions and classes. The state is a
pickle that refers to the items of that table, and travels with each call. Every call therefore has its own
copy of the state. ``split`` makes both.

The names and arguments of the functions here are part of the format of serialized values.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any

from ..exceptions import DeserializeError

_local = threading.local()


class Bound:
    """A callable without its state, which is its first argument.

    ``table``: the functions and classes that the state refers to. ``state``: the state, if it is always the
    same; then it is no argument.
    """

    __slots__ = ("table", "state")

    def __init__(self, table: tuple[Any, ...], state: bytes | None = None):
        self.table = table
        self.state = state

    def __reduce__(self) -> Any:
        return Bound, (self.table, self.state)

    @property
    def code(self) -> Any:
        """The first item of the table: of a method or a closure, its function."""
        return self.table[0] if self.table else None

    def load(self, args: tuple[Any, ...]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return the callable with its state, and its own arguments. Raises DeserializeError."""
        state = self.state
        if state is None:
            state, *rest = args
            args = tuple(rest)
        before = getattr(_local, "table", ())
        _local.table = self.table
        try:
            return _Unpickler(io.BytesIO(state)).load(), args
        except Exception as error:  # unpickling imports and runs code of any library
            raise DeserializeError(
                f"the state of a callable cannot be loaded here: {type(error).__name__}: {error}"
            ) from error
        finally:
            _local.table = before

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        fn, args = self.load(args)
        return fn(*args, **kwargs)


def item(number: int) -> Any:
    """Return an item of the table of the callable whose state is being loaded."""
    return _local.table[number]


class _Unpickler(pickle.Unpickler):
    """Loads a state, which refers to objects that its code refers to, too, by their numbers in the table."""

    def persistent_load(self, number: int) -> Any:
        return item(number)


def make_copy(number: int, cells: tuple[CellType, ...]) -> FunctionType:
    """Return a function with the code of an item of the table and the cells of its variables."""
    return with_cells(_local.table[number], cells)


def with_cells(fn: FunctionType, cells: tuple[CellType, ...]) -> FunctionType:
    """Return a function with the code and the names of another one, and cells of its own."""
    copy = FunctionType(fn.__code__, fn.__globals__, fn.__name__, None, cells)
    copy.__qualname__ = fn.__qualname__
    copy.__module__ = fn.__module__
    copy.__doc__ = fn.__doc__
    return copy


def fill_copy(fn: FunctionType, state: tuple[Any, ...]) -> None:
    """Set the state of a function made by ``make_copy``."""
    defaults, keywords, cells, attributes, annotations, _imported = state
    fn.__defaults__ = defaults
    fn.__kwdefaults__ = keywords
    for number, value in cells.items():
        fn.__closure__[number].cell_contents = value  # type: ignore[index]
    vars(fn).update(attributes)
    fn.__annotations__ = annotations
