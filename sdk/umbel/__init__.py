"""Umbel: run Python functions on your own machines, through your own service.

``Executor`` is a ``concurrent.futures.Executor`` whose calls run at an endpoint; ``Client`` is the
service's API, one method per route. With ``umbel.testing``, programs that use Umbel are tested without a
service.
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

# `import umbel` loads no submodule: the command and the service's processes import only parts of the package.
_MODULES = {
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
    """Import a public name when it is first used."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'umbel' has no attribute {name!r}")
    value = getattr(import_module(module, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
