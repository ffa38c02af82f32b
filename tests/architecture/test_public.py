"""The names that users' programs import: adding one is a decision, removing one breaks them.

The API reference is generated from their docstrings, so these must describe every parameter.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import umbel
from umbel import exceptions, serialize, shell, testing
from umbel.api.options import Options
from umbel.futures import UmbelFuture
from umbel.protocol import errors
from umbel.protocol.errors import UmbelError

PUBLIC = {
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
}


def test_the_public_names_are_these() -> None:
    assert set(umbel.__all__) == PUBLIC


def test_every_public_name_is_there_and_documented() -> None:
    for name in umbel.__all__:
        value = getattr(umbel, name)
        assert name == "__version__" or (value.__doc__ or "").strip(), f"umbel.{name} has no docstring"


def test_public_names_are_listed_by_dir() -> None:
    assert set(umbel.__all__) <= set(dir(umbel))


def _classes() -> list[type]:
    public = [getattr(umbel, name) for name in sorted(PUBLIC)]
    found = [value for value in public if isinstance(value, type)]
    found += [UmbelFuture, Options, serialize.FunctionBody, *(getattr(testing, n) for n in testing.__all__)]
    for module in (errors, exceptions, shell):
        found += [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, UmbelError)]
    return sorted(dict.fromkeys(found), key=lambda cls: cls.__qualname__)


def _functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function and method of the API reference, with its name."""
    yield "function", umbel.function
    for name in serialize.__all__:
        if not isinstance(getattr(serialize, name), type):
            yield name, getattr(serialize, name)
    for cls in _classes():
        for base in cls.__mro__:
            if base.__module__.startswith("umbel."):
                for name, value in vars(base).items():
                    value = getattr(value, "__func__", value)
                    if inspect.isfunction(value) and not name.startswith("_"):
                        yield f"{cls.__qualname__}.{name}", value


CLASSES = _classes()
FUNCTIONS = dict(_functions())


def _undescribed(signature: inspect.Signature, docstring: str) -> list[str]:
    """Parameters that no line ``name: ...`` of a docstring describes."""
    names = [name for name in signature.parameters if name not in ("self", "cls")]
    described = set(re.findall(r"^ +\*{0,2}(\w+)(?: \([^)]*\))?: ", docstring, re.MULTILINE))
    return [name for name in names if name not in described]


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_public_functions_describe_their_parameters(name: str) -> None:
    function = FUNCTIONS[name]
    assert function.__doc__, f"{name} has no docstring"
    assert not _undescribed(inspect.signature(function), function.__doc__)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__qualname__)
def test_public_classes_describe_their_parameters(cls: type) -> None:
    documented = inspect.getdoc(cls) or ""
    assert documented and not documented.startswith(
        cls.__name__ + "("
    ), f"{cls.__qualname__} has no docstring"
    if cls in (UmbelFuture, umbel.TaskState) or "__init__" not in vars(cls):
        return  # not created by users, or as its base class
    assert not _undescribed(inspect.signature(cls), (cls.__doc__ or "").replace("\n    ", "\n  "))


@pytest.mark.parametrize("cls", [c for c in CLASSES if issubclass(c, UmbelError)], ids=lambda c: c.__name__)
def test_error_classes_name_their_codes(cls: type[UmbelError]) -> None:
    bases = {UmbelError, errors.ServiceError}
    assert cls in bases or f"``{cls.default_code}``" in (cls.__doc__ or "")
