"""``umbel.function``: the environment that a function needs, and the limits of its calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from .protocol.environment import Environment
from .protocol.run_options import Limits
from .protocol.units import read_size, read_time

__all__ = ["Environment", "attach", "environment_of", "function", "limits_of"]

#: Attribute of a function that has its environment: a plain dict, so that every version can unpickle it.
ENVIRONMENT_ATTRIBUTE = "__umbel_environment__"
#: Attribute of a function that has its limits.
LIMITS_ATTRIBUTE = "__umbel_limits__"

F = TypeVar("F", bound=Callable[..., Any])


def function(
    *,
    requirements: Collection[str] = (),
    python: str | None = None,
    environment: Environment | str | None = None,
    timeout: float | str | None = None,
    memory: int | str | None = None,
    cpu: float | str | None = None,
    output: int | str | None = None,
    open_files: int | None = None,
    isolation: str | None = None,
) -> Callable[[F], F]:
    """Set the environment that a function needs, and limits of its calls.

    >>> @umbel.function(requirements=["numpy==2.*"], python="3.11")
    ... def mean(values):
    ...     import numpy
    ...     return float(numpy.mean(values))

    >>> @umbel.function(timeout=60, memory=2 << 30)
    ... def relax(structure): ...

    The endpoint builds the environment once and keeps it. The limits apply to every call; a submission and
    the endpoint may set smaller limits, not larger ones. The function itself does not change and can be
    called here.

    Args:
        requirements: Packages to install, as pip reads them, without options.
        python: Python version, such as ``"3.12"``. Default: the endpoint's.
        environment: An ``Environment``, or the name of an environment that the site provides, in place of
            ``requirements`` and ``python``.
        timeout: Run time of a call, seconds, or a string such as ``"5min"``; so is ``cpu``.
        memory: Memory of a call, bytes, or a string such as ``"2GiB"``; so is ``output``.
        cpu: Processor time of a call, seconds.
        output: How much of a call's standard output and standard error is kept, bytes.
        open_files: Files and sockets that a call may have open.
        isolation: ``"process"``: each call runs in a process of its own, whatever the submission and the
            endpoint ask for. For functions that change or damage their process.

    Returns:
        A decorator that returns the function itself.

    Raises:
        ValueError: A requirement, a version or a limit is not valid, or ``environment`` is combined with
            ``requirements`` or ``python``.
        TypeError: From the decorator: the object cannot have attributes, for example a builtin function.
    """
    if environment is not None and (requirements or python):
        raise ValueError("pass either 'environment' or 'requirements' and 'python', not both")
    if isinstance(environment, str):
        environment = Environment(name=environment)
    times = read_time("timeout", timeout), read_time("cpu", cpu)
    given = (
        times[0],
        read_size("memory", memory),
        times[1],
        read_size("output", output),
        open_files,
        isolation,
    )
    limits = Limits(*given) if any(limit is not None for limit in given) else None
    if environment is None and (requirements or python or limits is None):
        environment = Environment(tuple(_not_a_string(requirements)), python)
    return lambda fn: attach(fn, environment, limits)


def attach(fn: F, environment: Environment | None, limits: Limits | None) -> F:
    """Attach an environment and limits to a callable; return it. Raises TypeError if it has no attributes."""
    try:
        if environment is not None:
            setattr(fn, ENVIRONMENT_ATTRIBUTE, environment.to_json())
        if limits is not None:
            setattr(fn, LIMITS_ATTRIBUTE, limits.to_json())
    except (AttributeError, TypeError):
        raise TypeError(f"{fn!r} cannot have attributes: wrap it in a function of your own") from None
    return fn


def environment_of(fn: Callable[..., Any]) -> Environment | None:
    """The environment attached to a callable, or to the function of a partial. Raises ValueError."""
    record = _attached(fn, ENVIRONMENT_ATTRIBUTE)
    return None if record is None else Environment.from_json(record)


def limits_of(fn: Callable[..., Any]) -> Limits | None:
    """The limits attached to a callable, or to the function of a partial. Raises ValueError."""
    record = _attached(fn, LIMITS_ATTRIBUTE)
    return None if record is None else Limits.from_json(record)


def _attached(fn: Callable[..., Any], attribute: str) -> Any:
    while True:
        record = getattr(fn, attribute, None)
        if record is not None or not isinstance(fn, functools.partial):
            return record
        fn = fn.func


def _not_a_string(requirements: Collection[str]) -> Collection[str]:
    if isinstance(requirements, str):
        raise ValueError(f"requirements must be a list of strings, got the string {requirements!r}")
    return requirements
