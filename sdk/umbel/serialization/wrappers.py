"""Objects of ``functools`` that pickle cannot take apart: caches and dispatchers of functions by value."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

from .restore import fill_attributes

CACHED = type(functools.lru_cache(lambda: None))
_DISPATCHER: Any = functools.singledispatch(lambda value: value)


def is_dispatcher(fn: FunctionType) -> bool:
    """Return whether a function comes from ``functools.singledispatch``."""
    return fn.__code__ is _DISPATCHER.__code__


def reduce_cached(cached: Any) -> Any:
    """Reduce a function with a cache. The cached results do not travel."""
    parameters = cached.cache_parameters()
    args = (cached.__wrapped__, parameters["maxsize"], parameters["typed"])
    return make_cached, args, dict(vars(cached)), None, None, fill_attributes


def reduce_dispatcher(fn: Any) -> Any:
    """Reduce a function from ``functools.singledispatch``."""
    implementations = dict(fn.registry)
    return make_dispatcher, (implementations.pop(object),), implementations, None, None, fill_dispatcher


def reduce_cached_property(value: Any) -> Any:
    """Reduce a ``cached_property``, which has a lock before Python 3.12."""
    return functools.cached_property, (value.func,), {"attrname": value.attrname}


def make_cached(fn: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """Return a function with an empty cache."""
    return functools.lru_cache(maxsize, typed)(fn)


def make_dispatcher(fn: Callable[..., Any]) -> Any:
    """Return a dispatcher with the implementation for ``object``."""
    return functools.singledispatch(fn)


def fill_dispatcher(dispatcher: Any, implementations: dict[type, Callable[..., Any]]) -> None:
    """Register the other implementations."""
    for cls, implementation in implementations.items():
        dispatcher.register(cls, implementation)
