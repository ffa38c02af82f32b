"""Limits of a call: of its submission, of its function and of its endpoint. The smallest of each applies."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from .environment import function_header
from .limits import FEWEST_FILES, MAX_OUTPUT_BYTES

_YEAR = 366 * 86400.0
#: Smallest and largest value of each limit. Limits in seconds must be above the smallest value.
BOUNDS: dict[str, tuple[float, float]] = {
    "timeout": (0.0, _YEAR),
    "memory": (1024 * 1024, 2**50),
    "cpu": (0.0, _YEAR),
    "output": (0, MAX_OUTPUT_BYTES),
    "open_files": (FEWEST_FILES, 2**20),
}
#: Ways to isolate calls from each other.
ISOLATIONS = ("process",)
_SECONDS = ("timeout", "cpu")
#: What a function may set.
_NAMES = (*BOUNDS, "isolation")


@dataclass(frozen=True)
class Limits:
    """Limits that a function sets for all of its calls. None: the function sets no limit.

    ``timeout``: run time, seconds; ``memory``: bytes; ``cpu``: processor time, seconds; ``output``: bytes of
    standard output and error that are kept; ``open_files``: files and sockets; ``isolation``: "process" for a
    process for each call, whatever the submission and the endpoint say. Raises ValueError for values
    out of ``BOUNDS``, and if none is set.
    """

    timeout: float | None = None
    memory: int | None = None
    cpu: float | None = None
    output: int | None = None
    open_files: int | None = None
    isolation: str | None = None

    def __post_init__(self) -> None:
        given = self.to_json()
        if not given:
            raise ValueError(f"no limit is set: set at least one of {', '.join(_NAMES)}")
        if given.pop("isolation", None) not in (None, *ISOLATIONS):
            raise ValueError(f"isolation must be 'process' or None, got {self.isolation!r}")
        for name, value in given.items():
            least, most = BOUNDS[name]
            kinds = (int, float) if name in _SECONDS else (int,)
            finite = not isinstance(value, float) or math.isfinite(
                value
            )  # an integer may be too large for it
            if isinstance(value, bool) or not isinstance(value, kinds) or not finite:
                kind = "a number of seconds" if name in _SECONDS else "an integer"
                raise ValueError(f"{name} must be {kind}, got {value!r}")
            if not least <= value <= most or (name in _SECONDS and value == least):
                above = "above" if name in _SECONDS else "at least"
                raise ValueError(f"{name} must be {above} {least:g} and at most {most:g}, got {value!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the limits that are set as a JSON object."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, record: Any) -> Limits:
        """Return the limits of an object of ``to_json``. Raises ValueError."""
        if not isinstance(record, dict) or not set(record) <= set(_NAMES):
            raise ValueError(f"limits must be an object with some of {', '.join(_NAMES)}")
        return cls(**record)


@dataclass(frozen=True)
class RunOptions:
    """How each call of a bundle runs. None: as the endpoint's settings say.

    ``timeout``: run time, seconds; ``memory``: bytes; ``cpu``: processor time, seconds; ``cores``: slots of
    one node that each call occupies (None: one); ``output``: bytes of standard output and error that are
    kept; ``open_files``: files and sockets that it may have open; ``isolation``: "process" for a process of
    its own; ``nested``: True for calls that may submit further calls.
    """

    timeout: float | None = None
    memory: int | None = None
    cpu: float | None = None
    cores: int | None = None
    output: int | None = None
    open_files: int | None = None
    isolation: str | None = None
    nested: bool | None = None

    def tightened(self, other: RunOptions | Limits | None) -> RunOptions:
        """Return these options with the smaller value of each limit; None is no limit.

        Calls are isolated if either asks for it.
        """
        smaller: dict[str, Any] = {}
        if self.isolation is None and other is not None and other.isolation is not None:
            smaller["isolation"] = other.isolation
        for name in BOUNDS if other is not None else ():
            mine, theirs = getattr(self, name), getattr(other, name)
            if theirs is not None and (mine is None or theirs < mine):
                smaller[name] = theirs
        return replace(self, **smaller) if smaller else self


def limits_of_function(body: bytes) -> Limits | None:
    """Return the limits of a serialized function, or None. Raises ValueError if they are not valid."""
    record = function_header(body, "limits")
    return None if record is None else Limits.from_json(record)
