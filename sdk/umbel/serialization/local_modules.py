"""Modules whose functions and classes travel as code, because they are not installed.

Helper modules next to a user's script exist on that machine only.
"""

from __future__ import annotations

import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import cloudpickle

#: Packages of Umbel: importable wherever serialized values are loaded.
_UMBEL_PACKAGES = frozenset({"umbel", "endpoint_worker"})
_INSTALLED = tuple(
    str(Path(path).resolve()) + "/"
    for key in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_paths().get(key))
)

#: Module name -> whether the module is local. Each module is checked once.
_local: dict[str, bool] = {}


def generation() -> tuple[int, frozenset[str]]:
    """Return a value that changes when other modules may travel as code."""
    return len(sys.modules), frozenset(cloudpickle.list_registry_pickle_by_value())


def is_by_value(name: str | None) -> bool:
    """Return whether functions and classes of an imported module travel as code."""
    if name is None:
        return False
    local = _local.get(name)
    if local is None:
        module = sys.modules.get(name)
        if module is None:
            return False
        # sys.modules may list a module under another name
        local = _local[name] = getattr(module, "__name__", None) == name and is_local(module)
    return local or is_registered(name)


def is_registered(name: str | None) -> bool:
    """Return whether the program has registered a module, or a package that contains it, with cloudpickle."""
    registered = cloudpickle.list_registry_pickle_by_value()
    while registered and name:
        if name in registered:
            return True
        name = name.rpartition(".")[0]
    return False


def is_local(module: ModuleType) -> bool:
    """Return whether a module is a user's file, neither installed nor part of Python."""
    name = getattr(module, "__name__", "")
    file = getattr(module, "__file__", None)
    if not file or name == "__main__" or name.partition(".")[0] in _UMBEL_PACKAGES:
        return False
    return is_local_file(file)


def is_local_file(file: str | None) -> bool:
    """Return whether a file of Python code is neither installed nor part of Python."""
    if not file or file.endswith(tuple(EXTENSION_SUFFIXES)):
        return False
    if "site-packages" in file or "dist-packages" in file:
        return False
    return not str(Path(file).resolve()).startswith(_INSTALLED)
