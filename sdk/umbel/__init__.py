"""Umbel: functions of yours on machines of yours, through a service of yours.

``Executor`` is a ``concurrent.futures.Executor`` whose calls run at an endpoint; ``Client`` has the service's
API, one method per route. ``umbel.testing`` lets programs that use Umbel be tested without a service.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .protocol.version import __version__

if TYPE_CHECKING:
    from .api.client import Client
    from .environment import Environment, function
    from .executor import Executor
    from .protocol.errors import TaskError, UmbelError
    from .protocol.states import TaskState
    from .shell import MPIFunction, ShellFunction, ShellResult

__all__ = [
    "Client",
    "Environment",
    "Executor",
    "MPIFunction",
    "ShellFunction",
    "ShellResult",
    "TaskError",
    "TaskState",
    "UmbelError",
    "__version__",
    "function",
]

# `import umbel` itself costs nothing: the command line and the service's own processes import parts of it
# only.
_HOMES = {
    "Client": ".api.client",
    "Environment": ".environment",
    "Executor": ".executor",
    "MPIFunction": ".shell",
    "ShellFunction": ".shell",
    "ShellResult": ".shell",
    "TaskError": ".protocol.errors",
    "TaskState": ".protocol.states",
    "UmbelError": ".protocol.errors",
    "function": ".environment",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'umbel' has no attribute {name!r}")
    value = getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
