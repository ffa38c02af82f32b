"""What a child process must do first: sockets and locks of its parent are not its own."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

_methods: list[weakref.WeakMethod[Callable[[], object]]] = []


def after_fork(method: Callable[[], object]) -> None:
    """Call a bound method in every child process that is forked while its object lives.

    The method must not take a lock that existed before the fork: another thread may have held it.
    """
    global _methods
    _methods = [reference for reference in _methods if reference() is not None]
    _methods.append(weakref.WeakMethod(method))


def _run() -> None:
    for reference in list(_methods):
        method = reference()
        if method is not None:
            method()


os.register_at_fork(after_in_child=_run)
