"""Functions that pickles of ``by_value`` call while they are loaded.

Their names and arguments are part of the format of serialized values.
"""

from __future__ import annotations

import builtins
from types import ModuleType
from typing import Any


def make_module(name: str) -> ModuleType:
    """Return an empty module that is not in ``sys.modules``."""
    return ModuleType(name)


def fill_module(module: ModuleType, variables: dict[str, Any]) -> None:
    """Set the variables of a module made by ``make_module``."""
    vars(module).update(variables)
    vars(module)["__builtins__"] = vars(builtins)
