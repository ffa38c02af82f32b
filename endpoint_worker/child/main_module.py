"""Module ``__main__`` while calls of a function run that was defined in its user's ``__main__``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from umbel.serialization.bound import Bound


@contextmanager
def offering(function: Callable[..., Any]) -> Iterator[None]:
    """Give ``__main__`` the function and its globals, so that pickle finds them by name.

    ``multiprocessing`` and ``concurrent.futures`` pickle the functions that they send to forked processes.
    """
    if type(function) is Bound:
        function = function.code
    found = getattr(function, "__globals__", None)
    if getattr(function, "__module__", None) != "__main__" or found is None:
        yield
        return
    module = vars(sys.modules["__main__"])
    before = dict(module)
    module.update({name: value for name, value in found.items() if not name.startswith("__")})
    module.setdefault(function.__name__, function)
    try:
        yield
    finally:
        module.clear()
        module.update(before)
