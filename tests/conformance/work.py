"""Functions that the conformance tests have executed, and what they ask of a service."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Protocol

from umbel import Client, Executor

#: No test waits longer than this for anything (seconds).
DEADLINE = 30.0


class Service(Protocol):
    """Something that runs calls, on this machine: tests open gates by making files."""

    #: Python text that defines ``executor`` in a program of its own, for tests of the interpreter's end.
    program: str

    def executor(self, **options: Any) -> Executor:
        """Return a new executor."""

    def client(self) -> Client:
        """Return a new client."""


class Refused(Exception):
    """An error with a message of its own making."""

    def __init__(self, what: str, count: int):
        super().__init__(f"{what} refused {count} times")
        self.what = what
        self.count = count


class Unpicklable:
    """An object that cannot be turned into bytes."""

    def __reduce__(self) -> Any:
        raise TypeError("this object stays here")


class Point:
    """A class of the user's own module."""

    def __init__(self, x: float, y: float):
        self.x = x
        self.y = y

    def moved(self, by: float) -> Point:
        return Point(self.x + by, self.y + by)


def echo(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def square(number: int) -> int:
    return number * number


def divide(a: float, b: float) -> float:
    return a / b


def refuse(count: int) -> None:
    raise Refused("the door", count)


def nested_failure() -> None:
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise ValueError("outer") from error


def leave(status: int) -> None:
    raise SystemExit(status)


def give_unpicklable() -> Unpicklable:
    return Unpicklable()


def through_gate(gate: str, value: Any = None, deadline: float = DEADLINE) -> Any:
    """Wait until the file ``gate`` exists, then return ``value``."""
    end = time.monotonic() + deadline
    while not os.path.exists(gate):
        if time.monotonic() > end:
            raise TimeoutError(f"nobody opened {gate}")
        time.sleep(0.005)
    return value


def mark(path: str, value: Any = None) -> Any:
    """Append a line to a file; return ``value``."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{value}\n")
    return value


def open_gate(gate: Path) -> None:
    gate.write_text("open")
