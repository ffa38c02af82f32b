"""The arguments of ``umbel run FILE:FUNCTION ARGS``: a function, and the arguments of its call."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def find_function(text: str) -> Callable[..., Any]:
    """Return the function of ``FILE.py:FUNCTION`` or ``module:FUNCTION``. Raises UsageError."""
    origin, _, name = text.rpartition(":")
    if not origin or not name:
        raise click.UsageError(f"{text!r} does not name a function: write FILE:FUNCTION")
    path = Path(origin)
    if path.suffix == ".py" and not path.is_file():
        raise click.UsageError(f"there is no file {origin}")
    # as for a script: modules next to the file, or in the current directory, can be imported
    sys.path.insert(0, str(path.resolve().parent) if path.is_file() else "")
    try:
        module = _import_file(path) if path.is_file() else importlib.import_module(origin)
    except ImportError as error:
        raise click.UsageError(f"{origin} cannot be imported: {error}") from error
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise click.UsageError(f"{origin} has no function {name}")
    return found  # type: ignore[no-any-return]


def _import_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def parse_arguments(texts: tuple[str, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments: Python literals, otherwise strings."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and name.isidentifier():
            kwargs[name] = _literal(value)
        else:
            args.append(_literal(text))
    return tuple(args), kwargs


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
