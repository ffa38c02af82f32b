"""cloudpickle, with modules that are not installed taken along by value.

A user's helper modules beside her script exist on her machine only, so functions and classes in them
travel as code, as those of ``__main__`` do.
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

#: Importable wherever bytes of ours are read.
_OURS = frozenset({"umbel", "endpoint_worker"})
_INSTALLED = tuple(
    str(Path(path).resolve()) + "/"
    for key in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_paths().get(key))
)

#: Where the constructor of code takes the name of the file.
_FILE_NAME = 10

_lock = threading.Lock()
_local: dict[str, bool] = {}
_counted = 0


def dumps(value: Any) -> bytes:
    """Pickle anything with cloudpickle, protocol 5; local modules by value where that is possible.

    Raises whatever pickling raises.
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
        # A module that holds, say, a lock cannot travel; the endpoint may have it installed.
        try:
            return _dumps(value)
        except Exception:  # as above; the first error says more
            raise by_value_error from None


def _reduce_code(code: CodeType) -> Any:
    """As cloudpickle, which since 3.1.3 leaves the name of the file out: tracebacks tell it."""
    make, values, *more = cloudpickle.Pickler.dispatch_table[CodeType](code)
    # a string of its own, so that equal code gives equal bytes whatever else shares the name
    values = (*values[:_FILE_NAME], "".join(code.co_filename), *values[_FILE_NAME + 1 :])
    return (make, values, *more)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table = ChainMap({CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)


def _dumps(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


def is_local(module: ModuleType) -> bool:
    """Tell whether a module is a file of the user's own, not installed and not part of Python."""
    name = getattr(module, "__name__", "")
    file = getattr(module, "__file__", None)
    if not file or name == "__main__" or name.partition(".")[0] in _OURS:
        return False
    if file.endswith(tuple(EXTENSION_SUFFIXES)) or "site-packages" in file or "dist-packages" in file:
        return False
    return not str(Path(file).resolve()).startswith(_INSTALLED)


def _local_modules() -> list[ModuleType]:
    """Return the local modules among those imported by now; each module is looked at once."""
    global _counted
    if len(sys.modules) != _counted:
        _counted = len(sys.modules)
        for name, module in list(sys.modules.items()):
            # a module may sit in sys.modules under a name that it does not bear: cloudpickle wants its own
            if name not in _local:
                _local[name] = getattr(module, "__name__", None) == name and is_local(module)
    return [sys.modules[name] for name, local in _local.items() if local and name in sys.modules]
