"""Detects, without pickling, that something a serialized object refers to has changed.

A snapshot references every variable, attribute and item that pickling reads. Each of them must still be the
same object. Objects whose content cannot be compared this way, such as those with their own ``__reduce__``,
have no snapshot: they are pickled again and the bytes are compared.
"""

# One concept: the rules for all kinds of objects, which must be read together to see that none is missing.

from __future__ import annotations

import abc
import copyreg
import dataclasses
import datetime
import decimal
import enum
import functools
import logging
import pathlib
import re
import sys
import types
import uuid
from collections.abc import Callable, Iterable
from operator import is_
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle
from cloudpickle.cloudpickle import _extract_code_globals

from . import local_imports, wrappers
from .local_modules import is_by_value

#: Number of objects in one snapshot. Comparing more takes as long as pickling them again.
MAX_OBJECTS = 2_000
#: Number of items of a list or dictionary that are compared.
MAX_ITEMS = 100_000
#: Size of a captured array (bytes) of which a copy is kept to compare it.
MAX_BUFFER = 16 * 1024 * 1024

_MISSING = object()
#: Types of immutable objects that refer to no others that can change.
ATOMS: set[Any] = {
    type(None), bool, int, float, complex, str, bytes, range, type(...), type(NotImplemented),
    CodeType, re.Pattern, uuid.UUID, decimal.Decimal,
    datetime.date, datetime.timedelta, datetime.timezone,
    pathlib.PosixPath, pathlib.PurePosixPath, pathlib.WindowsPath, pathlib.PureWindowsPath,
    types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType,
    types.GetSetDescriptorType, types.MemberDescriptorType,
    logging.Logger, logging.RootLogger, type(dataclasses._FIELD),  # type: ignore[attr-defined]
}  # fmt: skip
#: What immutable objects of other types refer to.
_PARTS: dict[type, Callable[[Any], Iterable[Any]]] = {
    staticmethod: lambda value: [value.__func__],
    classmethod: lambda value: [value.__func__],
    property: lambda value: [value.fget, value.fset, value.fdel, value.__doc__],
    types.MethodType: lambda value: [value.__func__, value.__self__],
    functools.cached_property: lambda value: [value.func, value.attrname],
    types.BuiltinFunctionType: lambda value: [value.__self__],
    datetime.datetime: lambda value: [value.tzinfo],
    datetime.time: lambda value: [value.tzinfo],
}
_HEAP_TYPE = 1 << 9
_GETSTATE = getattr(object, "__getstate__", None)


class NotComparable(Exception):
    """An object whose content cannot be compared by identity."""


class Snapshot:
    """The variables, attributes and items of a graph of objects, as they were.

    Raises NotComparable if an object in the graph cannot be compared.
    """

    def __init__(self, root: Any):
        self._functions: list[tuple[Any, ...]] = []
        self._names: list[tuple[dict[str, Any], str, Any]] = []
        self._cells: list[tuple[Any, Any]] = []
        self._mappings: list[tuple[Any, tuple[Any, ...], tuple[Any, ...]]] = []
        self._empty: list[Any] = []
        self._sequences: list[tuple[Any, tuple[Any, ...]]] = []
        self._references: list[tuple[Any, str, str]] = []
        self._values: list[tuple[Callable[[Any], Any], Any, Any]] = []
        self._waiting: list[Any] = [root]
        seen: dict[int, Any] = {}
        while self._waiting:
            value = self._waiting.pop()
            if type(value) not in ATOMS and id(value) not in seen:
                seen[id(value)] = value  # referenced, so that no other object gets its id
                if len(seen) > MAX_OBJECTS:
                    raise NotComparable
                self._add(value)
        self._seen = seen

    def objects(self) -> list[Any]:
        """Return the objects of the graph and the cells of its functions, in the order they were found."""
        return [*self._seen.values(), *(cell for cell, _ in self._cells)]

    def is_valid(self) -> bool:
        """Return whether everything is still the same."""
        try:
            return self._variables_are_valid() and self._objects_are_valid()
        except Exception:  # a dictionary changed meanwhile, or an attribute is gone
            return False

    def _variables_are_valid(self) -> bool:
        for fn, code, defaults, keywords, notes, name, qualname, module, doc in self._functions:
            if not (
                fn.__code__ is code
                and fn.__defaults__ is defaults
                and fn.__kwdefaults__ is keywords
                and fn.__annotations__ is notes
                and fn.__name__ is name
                and fn.__qualname__ is qualname
                and fn.__module__ is module
                and fn.__doc__ is doc
            ):
                return False
        for mapping in self._empty:
            if mapping:
                return False
        for namespace, name, value in self._names:
            if namespace.get(name, _MISSING) is not value:
                return False
        for cell, value in self._cells:
            if _content(cell) is not value:
                return False
        return True

    def _objects_are_valid(self) -> bool:
        for mapping, keys, values in self._mappings:
            if len(mapping) != len(keys):
                return False
            if not (all(map(is_, mapping, keys)) and all(map(is_, mapping.values(), values))):
                return False
        for sequence, items in self._sequences:
            if len(sequence) != len(items) or not all(map(is_, sequence, items)):
                return False
        for value, module, qualname in self._references:
            if find_by_name(module, qualname) is not value:
                return False
        return all(read(value) == content for read, value, content in self._values)

    def _add(self, value: Any) -> None:
        kind = type(value)
        if kind is FunctionType:
            self._add_function(value)
        elif issubclass(kind, type):
            self._add_class(value)
        elif issubclass(kind, ModuleType):
            if is_by_value(value.__name__):
                self._add_mapping({k: v for k, v in vars(value).items() if k != "__builtins__"}, vars(value))
        elif kind is dict or kind is types.MappingProxyType:
            self._add_mapping(value, value)
        elif kind in (list, set, tuple, frozenset):
            self._add_items(value, mutable=kind in (list, set))
        elif kind in _PARTS:
            self._waiting += _PARTS[kind](value)
        elif kind is functools.partial:
            self._values.append((_partial_attributes, value, _partial_attributes(value)))
            self._waiting += _partial_attributes(value)
        elif kind is wrappers.CACHED:
            self._add_cached(value)
        elif kind is types.SimpleNamespace:
            self._add_mapping(vars(value), vars(value))
        elif not self._add_typing(value) and not self._add_array(value):
            self._add_object(value)

    def _add_function(self, fn: FunctionType) -> None:
        if self._add_reference(fn):
            # environment and limits are attributes that are read from these functions, too
            self._compare_mapping(fn.__dict__)
            return
        self._add_mapping(fn.__dict__, fn.__dict__)
        attributes = _function_attributes(fn)
        self._functions.append((fn, *attributes))
        self._waiting += attributes
        for name in _extract_code_globals(fn.__code__):
            value = fn.__globals__.get(name, _MISSING)
            self._names.append((fn.__globals__, name, value))
            if value is not _MISSING:
                self._waiting.append(value)
        self._waiting += local_imports.find(fn).values()
        for cell in fn.__closure__ or ():
            value = _content(cell)
            self._cells.append((cell, value))
            if value is not _MISSING:
                self._waiting.append(value)

    def _add_cached(self, cached: Any) -> None:
        if not self._add_reference(cached):
            self._add_mapping(vars(cached), vars(cached))

    def _add_class(self, cls: type) -> None:
        if cls.__module__ == "builtins" or self._add_reference(cls):
            return
        slot_names(cls)  # pickling an instance sets an attribute of the class, too
        attributes = cls.__dict__
        kept = {name: value for name, value in attributes.items() if name != "_abc_impl"}
        if "_abc_impl" in attributes:
            self._values.append((_registered, cls, _registered(cls)))
            self._waiting += _registered(cls)
        self._add_mapping(kept, attributes)
        self._values.append((_class_attributes, cls, _class_attributes(cls)))
        self._waiting += [type(cls), *cls.__bases__]

    def _add_reference(self, value: Any) -> bool:
        """Record that an object travels as the name of its module and its own; False if it does not."""
        module, qualname = value.__module__, value.__qualname__
        if not isinstance(module, str) or module == "__main__" or is_by_value(module):
            return False
        if find_by_name(module, qualname) is not value:
            return False
        self._references.append((value, module, qualname))
        return True

    def _add_mapping(self, followed: Any, mapping: Any) -> None:
        self._compare_mapping(mapping)
        self._follow(followed)
        self._follow(followed.values())

    def _compare_mapping(self, mapping: Any) -> None:
        if mapping:
            self._mappings.append((mapping, tuple(mapping), tuple(mapping.values())))
        else:
            self._empty.append(mapping)

    def _add_items(self, items: Any, *, mutable: bool) -> None:
        if mutable:
            self._sequences.append((items, tuple(items)))
        self._follow(items)

    def _follow(self, items: Any) -> None:
        if len(items) > MAX_ITEMS:
            raise NotComparable
        if not ATOMS.issuperset(map(type, items)):
            self._waiting += items

    def _add_typing(self, value: Any) -> bool:
        kind = type(value)
        if kind in (types.GenericAlias, types.UnionType) or kind.__module__ == "typing":
            names = ("__origin__", "__args__", "__bound__", "__constraints__", "__supertype__")
            self._waiting += [getattr(value, name, None) for name in names]
            return True
        return False

    def _add_array(self, value: Any) -> bool:
        numpy = sys.modules.get("numpy")
        if numpy is None:
            return False
        kind = type(value)  # not isinstance: it would resolve a lazy proxy
        if issubclass(kind, (numpy.dtype, numpy.ufunc)):
            return True
        if issubclass(kind, numpy.generic):
            return bool(value.dtype.kind in "biufcSUmM")
        if kind is not numpy.ndarray:
            return False
        if value.dtype.hasobject or value.nbytes > MAX_BUFFER:
            raise NotComparable
        self._values.append((_array_content, value, _array_content(value)))
        return True

    def _add_object(self, value: Any) -> None:
        """Add an object that pickle reduces to its class and its attributes."""
        kind = type(value)
        if not issubclass(kind, enum.Enum) and not _has_default_pickling(kind):
            raise NotComparable
        slots = [name for name in slot_names(kind) if name != "__dict__"]
        read = functools.partial(_class_and_slots, slots)
        self._values.append((read, value, read(value)))
        self._waiting += [content for content in read(value) if content is not _MISSING]
        own = getattr(value, "__dict__", None)
        if own is not None:
            self._add_mapping(own, own)


class _Identities(tuple):  # type: ignore[type-arg]
    """A tuple that equals another one if the items are the same objects."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and len(self) == len(other) and all(map(is_, self, other))


def _function_attributes(fn: FunctionType) -> tuple[Any, ...]:
    return (
        fn.__code__,
        fn.__defaults__,
        fn.__kwdefaults__,
        fn.__annotations__,
        fn.__name__,
        fn.__qualname__,
        fn.__module__,
        fn.__doc__,
    )


def _class_attributes(cls: type) -> tuple[Any, ...]:
    return _Identities((cls.__name__, cls.__qualname__, cls.__bases__))


def _class_and_slots(slots: Iterable[str], value: Any) -> tuple[Any, ...]:
    return _Identities((type(value), *[getattr(value, name, _MISSING) for name in slots]))


def slot_names(cls: type) -> list[str]:
    """Return the names of the slots that pickle stores."""
    names: list[str] = copyreg._slotnames(cls)  # type: ignore[attr-defined]
    return names


def _partial_attributes(value: functools.partial[Any]) -> tuple[Any, ...]:
    return _Identities((value.func, value.args, value.keywords, vars(value)))


def _registered(cls: type) -> tuple[Any, ...]:
    """Return the virtual subclasses of an abstract class."""
    registry = abc._get_dump(cls)[0]  # type: ignore[attr-defined]
    return _Identities(sorted((found for ref in registry if (found := ref()) is not None), key=id))


def _array_content(array: Any) -> tuple[Any, ...]:
    return array.dtype, array.shape, array.flags.f_contiguous, array.flags.writeable, array.tobytes("A")


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING  # not assigned yet


def find_by_name(module: str, qualname: str) -> Any:
    """Return the object that a module has under a qualified name, or None."""
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        if found is None or name == "<locals>":
            return None
        found = getattr(found, name, None)
    return found


def _has_default_pickling(kind: Any) -> bool:
    """Return whether pickle stores the class and the attributes of an instance, and nothing else."""
    if kind is dataclasses.Field:
        return True
    if kind in copyreg.dispatch_table or kind in cloudpickle.Pickler.dispatch_table:
        return False
    return (
        all(base is object or base.__flags__ & _HEAP_TYPE for base in kind.__mro__)
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind.__getattribute__ is object.__getattribute__
        and getattr(kind, "__getstate__", None) is _GETSTATE
        and not hasattr(kind, "__getnewargs__")
        and not hasattr(kind, "__getnewargs_ex__")
    )
