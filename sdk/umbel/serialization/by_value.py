"""cloudpickle, with modules that are not installed serialized by value.

Helper modules next to a user's script exist on that machine only, so functions and classes in them are
serialized as code, like those of ``__main__``.
"""

from __future__ import annotations

import io
import sys
import sysconfig
import threading
from collections import ChainMap
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import cloudpickle

#: Packages of Umbel: importable wherever serialized values are loaded.
_UMBEL_PACKAGES = frozenset({"umbel", "endpoint_worker"})
_INSTALLED = tuple(
    str(Path(path).resolve()) + "/"
    for key in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_paths().get(key))
)

#: Position of the file name among the arguments of the constructor of code.
_FILE_NAME = 10

_lock = threading.Lock()
#: Module name -> whether the module is local.
_local: dict[str, bool] = {}
#: Number of modules in ``sys.modules`` when ``_local`` was last updated.
_module_count = 0


def dumps(value: Any) -> bytes:
    """Pickle any object with cloudpickle, protocol 5; local modules by value where that is possible.

    Raises any exception of pickling.
    """
    with _lock:
        local = _local_modules()
        if not local:
            return _dumps(value)
        registered = [m for m in local if m.__name__ not in cloudpickle.list_registry_pickle_by_value()]
        for module in registered:
            cloudpickle.register_pickle_by_value(module)
        try:
            return _dumps(value)
        except Exception as error:  # pickling runs code of any library, which may raise anything
            by_value_error = error
        finally:
            for module in registered:
                cloudpickle.unregister_pickle_by_value(module)
        # A module that contains, say, a lock cannot be pickled; it may be installed at the endpoint.
        try:
            return _dumps(value)
        except Exception:  # as above; the first error is the more useful one
            raise by_value_error from None


def _reduce_code(code: CodeType) -> Any:
    """Reduce code like cloudpickle, but keep the file name, which cloudpickle omits since 3.1.3."""
    make, values, *more = cloudpickle.Pickler.dispatch_table[CodeType](code)
    # a new string, so that equal code gives equal bytes even if other objects share the name
    values = (*values[:_FILE_NAME], "".join(code.co_filename), *values[_FILE_NAME + 1 :])
    return (make, values, *more)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table = ChainMap({CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)


def _dumps(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


def is_local(module: ModuleType) -> bool:
    """Return whether a module is a user's file, neither installed nor part of Python."""
    name = getattr(module, "__name__", "")
    file = getattr(module, "__file__", None)
    if not file or name == "__main__" or name.partition(".")[0] in _UMBEL_PACKAGES:
        return False
    if file.endswith(tuple(EXTENSION_SUFFIXES)) or "site-packages" in file or "dist-packages" in file:
        return False
    return not str(Path(file).resolve()).startswith(_INSTALLED)


def _local_modules() -> list[ModuleType]:
    """Return the local modules among those imported so far. Each module is checked once."""
    global _module_count
    if len(sys.modules) != _module_count:
        _module_count = len(sys.modules)
        for name, module in list(sys.modules.items()):
            # sys.modules may list a module under another name; cloudpickle needs the module's own
            if name not in _local:
                _local[name] = getattr(module, "__name__", None) == name and is_local(module)
    return [sys.modules[name] for name, local in _local.items() if local and name in sys.modules]
