"""Modules that a function imports while it runs, and that are not installed.

They travel with the function, in a table of its own, so that versions of two functions never mix. In the
other process, the function's ``__import__`` looks into that table first.
"""

from __future__ import annotations

import dis
import functools
import importlib
import importlib.util
import sys
from types import CodeType, FunctionType, ModuleType

from .local_modules import is_by_value, is_local_file


def find(fn: FunctionType) -> dict[str, ModuleType]:
    """Return the local modules that a function imports, by name, with the packages that contain them.

    Modules that are not imported yet are imported now. One that cannot be imported is left out.
    """
    found: dict[str, ModuleType] = {}
    for level, name, items in _imports(fn.__code__):
        absolute = _absolute(level, name, fn.__globals__)
        if absolute is None or not _may_be_local(absolute):
            continue
        for full in (absolute, *(f"{absolute}.{item}" for item in items)):
            module = _import(full, required=full == absolute)
            if module is not None and is_by_value(full):
                found.update(_with_packages(full))
    return found


@functools.lru_cache(maxsize=4096)
def _imports(code: CodeType) -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    """Return level, name and items of the import statements in code and in the functions defined in it."""
    found: list[tuple[int, str, tuple[str, ...]]] = []
    if any(instruction.opname == "IMPORT_NAME" for instruction in dis.get_instructions(code)):
        steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
        for number, step in enumerate(steps):
            if step.opname == "IMPORT_NAME":
                level, items = steps[number - 2].argval, steps[number - 1].argval
                found.append((level if isinstance(level, int) else 0, step.argval, tuple(items or ())))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found.extend(_imports(constant))
    return tuple(found)


def _absolute(level: int, name: str, variables: dict[str, object]) -> str | None:
    if level == 0:
        return name
    package = variables.get("__package__")
    if not isinstance(package, str) or package.count(".") < level - 1:
        return None
    base = package.rsplit(".", level - 1)[0]
    return f"{base}.{name}" if name else base


def _may_be_local(name: str) -> bool:
    """Return whether a module may be a user's file, without importing anything."""
    if name in sys.modules:
        # a package without a file, in which there may be local modules
        return is_by_value(name) or getattr(sys.modules[name], "__file__", None) is None
    top = name.partition(".")[0]
    if top in sys.modules:
        return is_by_value(top) or getattr(sys.modules[top], "__file__", None) is None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return False
    if spec is None or top in sys.builtin_module_names:
        return False
    return is_local_file(spec.origin) if spec.has_location else bool(spec.submodule_search_locations)


def _import(name: str, *, required: bool) -> ModuleType | None:
    module = sys.modules.get(name)
    if module is None:
        try:
            if not required and importlib.util.find_spec(name) is None:
                return None  # an item that is no module
            module = importlib.import_module(name)
        except Exception:  # importing runs the user's code
            return None
    return module


def _with_packages(name: str) -> dict[str, ModuleType]:
    found = {}
    while name:
        if is_by_value(name):
            found[name] = sys.modules[name]
        name = name.rpartition(".")[0]
    return found
