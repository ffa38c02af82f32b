"""Objects of which a program may notice whether they are one object or equal ones."""

from __future__ import annotations

import enum
import functools
import sys
from collections.abc import Iterable
from types import BuiltinFunctionType, FunctionType, GenericAlias, MethodType, ModuleType, UnionType
from typing import Any

from . import wrappers
from .snapshot import ATOMS
from .split import is_distinct

_IMMUTABLE = frozenset({tuple, frozenset, staticmethod, classmethod, property, functools.cached_property})
_BY_NAME = (type, ModuleType, BuiltinFunctionType, MethodType, GenericAlias, UnionType, enum.Enum)


def with_identity(values: Iterable[Any]) -> list[Any]:
    """Return the values whose identity matters: containers, objects of most classes, lambdas, cells.

    Classes, modules, functions with a name and immutable values are the same objects after unpickling, or it
    makes no difference.
    """
    return [value for value in values if type(value) not in ATOMS and _has_identity(value)]


def _has_identity(value: Any) -> bool:
    kind = type(value)  # not isinstance: it would resolve a lazy proxy
    if kind is FunctionType:
        # not methods: they belong to their classes
        scope = value.__qualname__.rpartition(".")[0]
        return (not scope or scope.endswith("<locals>")) and is_distinct(value)
    if kind in _IMMUTABLE or kind is wrappers.CACHED or issubclass(kind, _BY_NAME):
        return False
    if kind.__module__ == "typing":
        return False
    numpy = sys.modules.get("numpy")
    return numpy is None or not issubclass(kind, (numpy.dtype, numpy.ufunc, numpy.generic))
