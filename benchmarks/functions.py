"""The functions that every system calls, importable in clients and workers."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

#: W21: number of functions, and how many of them leave a daemon thread behind.
FUNCTIONS, WITH_THREADS = 20, 2
#: A callable and the arguments of its call.
EachCall = tuple[Callable[..., Any], tuple[Any, ...]]


def same(value: Any) -> Any:
    """Return the argument, so that every result can be checked."""
    return value


def nap(item: Any) -> Any:
    """Sleep for ``item[1]`` seconds, unless it is 0, and return ``item[0]``."""
    if item[1]:
        time.sleep(item[1])
    return item[0]


#: Name in a work's plan -> function.
BY_NAME = {"same": same, "nap": nap}


class Holder:
    """An object whose methods and calls return its value."""

    def __init__(self, value: Any):
        self.value = value

    def read(self) -> Any:
        """Return the value."""
        return self.value

    def __call__(self) -> Any:
        return self.value


def _closure(value: Any) -> Callable[[], Any]:
    def read() -> Any:
        return value

    return read


def of_many_kinds(items: Sequence[Any]) -> Iterator[EachCall]:
    """Yield calls that return the items: partials, methods, objects, closures, lambdas with defaults."""
    makers: tuple[Callable[[Any], Callable[..., Any]], ...] = (
        lambda item: functools.partial(same, item),
        lambda item: functools.partial(max, [item]),
        lambda item: Holder(item).read,
        Holder,
        _closure,
        lambda item: lambda item=item: item,
    )
    for item, make in zip(items, cycle(makers)):
        yield make(item), ()


def alternating(items: Sequence[Any]) -> Iterator[EachCall]:
    """Yield calls of many functions in turn, each with one item; some leave a daemon thread behind."""
    functions: dict[str, Any] = {"__name__": __name__, "threading": threading}
    thread = "    threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    for number in range(FUNCTIONS):
        body = thread if number < WITH_THREADS else ""
        exec(f"def same_{number}(value):\n{body}    return value\n", functions)
    for number, item in enumerate(items):
        yield functions[f"same_{number % FUNCTIONS}"], (item,)


#: Works that call another function each time -> their calls.
EACH = {"W20": of_many_kinds, "W21": alternating}
