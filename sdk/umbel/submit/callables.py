"""What the executor looks at in a function and its arguments before it serializes them."""

from __future__ import annotations

import asyncio
import enum
import functools
import inspect
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import fields
from typing import Any

from ..api.options import Options
from ..exceptions import SerializeError

#: Names of options of an executor, which are easily mistaken for arguments of ``submit``.
OPTION_NAMES = frozenset(field.name for field in fields(Options))


class Kind(enum.Enum):
    """What a call of a function returns."""

    VALUE = 0
    GENERATOR = inspect.CO_GENERATOR
    COROUTINE = inspect.CO_COROUTINE
    ASYNC_GENERATOR = inspect.CO_ASYNC_GENERATOR


_FLAGS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def kind_of(fn: Any) -> Kind:
    """Return what a call of ``fn`` returns."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    code = getattr(fn, "__code__", None)
    if code is None:  # an object of a class with __call__
        code = getattr(getattr(type(fn), "__call__", None), "__code__", None)
    flags = getattr(code, "co_flags", 0) & _FLAGS
    return Kind(flags) if flags else Kind.VALUE


def run_coroutine(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a coroutine function at the endpoint."""
    return asyncio.run(fn(*args, **kwargs))


def check_option_names(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise TypeError if an option of the executor is passed to a function that does not take it."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # a builtin function without a signature
        return
    parameters = signature.parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    wrong = sorted(name for name in kwargs if name in OPTION_NAMES and name not in parameters)
    if wrong:
        shown = ", ".join(f"{name}={kwargs[name]!r}" for name in wrong)
        raise TypeError(
            f"{getattr(fn, '__name__', fn)!r} has no argument {wrong[0]!r}: for an option of the call, use "
            f"executor.options({shown}).submit(...)"
        )


def future_as_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> SerializeError | None:
    """Return the error for arguments that cannot be serialized because a future is among them, or None."""
    for value in [*args, *kwargs.values()]:
        inner = value.values() if isinstance(value, dict) else value
        items = list(inner) if isinstance(value, (list, tuple, set, dict)) else [value]
        for item in items:
            if isinstance(item, Future):
                return SerializeError(f"an argument is a future ({item!r}): pass its value, future.result()")
    return None
