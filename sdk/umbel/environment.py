"""``@umbel.function(requirements=..., timeout=...)``: what a function needs and may take where it runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from .protocol.environment import Environment
from .protocol.run_options import Limits

__all__ = ["ATTRIBUTE", "Environment", "carry", "environment_of", "function", "limits_of"]

#: Where a function carries its environment: a plain dict, so that it can be pickled for any Umbel.
ATTRIBUTE = "__umbel_environment__"
#: Where it carries its limits.
LIMITS = "__umbel_limits__"

F = TypeVar("F", bound=Callable[..., Any])


def function(
    *,
    requirements: Collection[str] = (),
    python: str | None = None,
    environment: Environment | str | None = None,
    timeout: float | None = None,
    memory: int | None = None,
    cpu: float | None = None,
    output: int | None = None,
    open_files: int | None = None,
) -> Callable[[F], F]:
    """Say what a function needs, and what its calls may take.

    >>> @umbel.function(requirements=["numpy==2.*"], python="3.11")
    ... def mean(values):
    ...     import numpy
    ...     return float(numpy.mean(values))

    ``environment``: an Environment, or the name of one that the site has ready, in place of the other two.
    The endpoint builds it once and keeps it. The rest are limits of every call, whoever submits it:
    ``timeout`` and ``cpu`` (seconds of run time and of processor time), ``memory`` (bytes), ``output`` (bytes
    kept of what it writes), ``open_files``. Submission and endpoint may set smaller ones, never larger ones.

    >>> @umbel.function(timeout=60, memory=2 << 30)
    ... def relax(structure): ...

    The function itself stays as it is and may be called here. Raises ValueError for what cannot be one.
    """
    if environment is not None and (requirements or python):
        raise ValueError("give an environment, or requirements and python, not both")
    if isinstance(environment, str):
        environment = Environment(name=environment)
    given = (timeout, memory, cpu, output, open_files)
    limits = Limits(*given) if any(limit is not None for limit in given) else None
    if environment is None and (requirements or python or limits is None):
        environment = Environment(tuple(_listed(requirements)), python)
    return lambda fn: carry(fn, environment, limits)


def carry(fn: F, environment: Environment | None, limits: Limits | None) -> F:
    """Have a callable carry an environment and limits; return it. Raises TypeError when it cannot."""
    try:
        if environment is not None:
            setattr(fn, ATTRIBUTE, environment.to_json())
        if limits is not None:
            setattr(fn, LIMITS, limits.to_json())
    except (AttributeError, TypeError):
        raise TypeError(f"{fn!r} cannot carry anything: call it in a function of yours") from None
    return fn


def environment_of(fn: Callable[..., Any]) -> Environment | None:
    """The environment that a callable, or what it calls as a partial, was marked with. Raises ValueError."""
    record = _carried(fn, ATTRIBUTE)
    return None if record is None else Environment.from_json(record)


def limits_of(fn: Callable[..., Any]) -> Limits | None:
    """The limits that a callable, or what it calls as a partial, was marked with. Raises ValueError."""
    record = _carried(fn, LIMITS)
    return None if record is None else Limits.from_json(record)


def _carried(fn: Callable[..., Any], attribute: str) -> Any:
    while True:
        record = getattr(fn, attribute, None)
        if record is not None or not isinstance(fn, functools.partial):
            return record
        fn = fn.func


def _listed(requirements: Collection[str]) -> Collection[str]:
    if isinstance(requirements, str):
        raise ValueError(f"requirements is the text {requirements!r}: give a list of texts")
    return requirements
