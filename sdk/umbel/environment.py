"""``@umbel.function(requirements=..., python=...)``: what a function needs where it runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from .protocol.environment import Environment

__all__ = ["ATTRIBUTE", "Environment", "environment_of", "function"]

#: Where a function carries its environment: a plain dict, so that it can be pickled for any Umbel.
ATTRIBUTE = "__umbel_environment__"

F = TypeVar("F", bound=Callable[..., Any])


def function(
    *,
    requirements: Collection[str] = (),
    python: str | None = None,
    environment: Environment | str | None = None,
) -> Callable[[F], F]:
    """Say what a function needs; the endpoint builds that environment once and keeps it.

    >>> @umbel.function(requirements=["numpy==2.*"], python="3.11")
    ... def mean(values):
    ...     import numpy
    ...     return float(numpy.mean(values))

    ``environment``: an Environment, or the name of one that the site has ready, in place of the other two.
    The function itself stays as it is and may be called here. Raises ValueError for what cannot be one.
    """
    if environment is not None and (requirements or python):
        raise ValueError("give an environment, or requirements and python, not both")
    if isinstance(environment, str):
        environment = Environment(name=environment)
    chosen = environment or Environment(tuple(_listed(requirements)), python)

    def mark(fn: F) -> F:
        try:
            setattr(fn, ATTRIBUTE, chosen.to_json())
        except (AttributeError, TypeError):
            raise TypeError(f"{fn!r} cannot carry an environment: call it in a function of yours") from None
        return fn

    return mark


def environment_of(fn: Callable[..., Any]) -> Environment | None:
    """The environment that a callable, or what it calls as a partial, was marked with. Raises ValueError."""
    while True:
        record = getattr(fn, ATTRIBUTE, None)
        if record is not None:
            return Environment.from_json(record)
        if not isinstance(fn, functools.partial):
            return None
        fn = fn.func


def _listed(requirements: Collection[str]) -> Collection[str]:
    if isinstance(requirements, str):
        raise ValueError(f"requirements is the text {requirements!r}: give a list of texts")
    return requirements
