"""Functions that pickles of ``by_value`` call while they are loaded.

Their names and arguments are part of the format of serialized values.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from types import ModuleType
from typing import Any

from cloudpickle.cloudpickle import _function_setstate

from . import packages

#: Name, in the builtins of a function, of the table of modules that travelled with it.
_MODULES = "__umbel_modules__"


def choose(reference: Any, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Return the object of this process that a reference names, or one made from the code that travelled."""
    found = packages.find(reference)
    packages.chosen[reference[0]] = found is not None and packages.chosen.get(reference[0], True)
    return make(*args) if found is None else found


def fill_chosen(obj: Any, choice: tuple[Any, Callable[[Any, Any], Any], Any]) -> None:
    """Set the state of an object that ``choose`` has made."""
    reference, fill, state = choice
    if packages.find(reference) is not obj:
        fill(obj, state)


def fill_attributes(obj: Any, attributes: dict[str, Any]) -> None:
    """Set attributes."""
    vars(obj).update(attributes)


def make_module(name: str) -> ModuleType:
    """Return an empty module that is not in ``sys.modules``."""
    return ModuleType(name)


def fill_module(module: ModuleType, variables: dict[str, Any]) -> None:
    """Set the variables of a module made by ``make_module``."""
    vars(module).update(variables)
    vars(module)["__builtins__"] = vars(builtins)


def make_function(imports: bool, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Return a function without state. ``imports``: it imports modules that travel with it."""
    variables = args[1]
    namespace = variables.get("__builtins__")
    fn = make(*args)
    if not _has_table(namespace):
        if not imports:
            return fn
        namespace = _importing()
    variables["__builtins__"] = namespace
    # a function takes its builtins from its globals when it is created
    return type(fn)(fn.__code__, variables, fn.__name__, None, fn.__closure__)


def fill_function(fn: Any, state: tuple[Any, dict[str, ModuleType]]) -> None:
    """Set the state of a function, and the modules that it imports."""
    inner, modules = state
    namespace = fn.__globals__.get("__builtins__")
    _function_setstate(fn, inner)
    if _has_table(namespace):
        # functions that this one defines take their builtins from here
        fn.__globals__["__builtins__"] = namespace
        namespace[_MODULES].update(modules)
        for name, module in modules.items():
            parent, _, own = name.rpartition(".")
            if parent:
                package = namespace[_MODULES].setdefault(parent, ModuleType(parent))
                vars(package).setdefault(own, module)


def _has_table(namespace: Any) -> bool:
    return isinstance(namespace, dict) and _MODULES in namespace


def _importing() -> dict[str, Any]:
    """Return builtins whose ``__import__`` looks into a table of modules first."""
    modules: dict[str, ModuleType] = {}

    def find(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> ModuleType:
        full = name
        if level:
            base = str((globals or {}).get("__package__") or "").rsplit(".", level - 1)[0]
            full = f"{base}.{name}" if name else base
        if full not in modules:
            return builtins.__import__(name, globals, locals, fromlist, level)
        return modules[full if fromlist else full.partition(".")[0]]

    return {**vars(builtins), "__import__": find, _MODULES: modules}
