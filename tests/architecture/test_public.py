"""The names that other people's programs use: adding one is a decision, removing one breaks them."""

from __future__ import annotations

import umbel

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
