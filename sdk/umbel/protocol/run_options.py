"""What one call may take: asked by its submission, by its function, and allowed by its endpoint.

All three are merged in one way: of each limit the smallest counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from .environment import function_header
from .limits import FEWEST_FILES, MAX_OUTPUT_BYTES

_YEAR = 366 * 86400.0
#: Smallest and largest value of each limit; those of seconds must be above the smallest.
BOUNDS: dict[str, tuple[float, float]] = {
    "timeout": (0.0, _YEAR),
    "memory": (1024 * 1024, 2**50),
    "cpu": (0.0, _YEAR),
    "output": (0, MAX_OUTPUT_BYTES),
    "open_files": (FEWEST_FILES, 2**20),
}
_SECONDS = ("timeout", "cpu")


@dataclass(frozen=True)
class Limits:
    """Limits of a function's calls, whoever submits them. None: no limit of the function's own.

    ``timeout``: seconds of run time; ``memory``: bytes; ``cpu``: seconds of processor time; ``output``: bytes
    kept of what a call writes; ``open_files``: files and sockets. Raises ValueError for what is out of
    ``BOUNDS``, and when none is given.
    """

    timeout: float | None = None
    memory: int | None = None
    cpu: float | None = None
    output: int | None = None
    open_files: int | None = None

    def __post_init__(self) -> None:
        given = self.to_json()
        if not given:
            raise ValueError(f"no limit is given: name one of {', '.join(BOUNDS)}")
        for name, value in given.items():
            least, most = BOUNDS[name]
            kinds = (int, float) if name in _SECONDS else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
                raise ValueError(
                    f"{name} is {value!r}: give {'seconds' if name in _SECONDS else 'an integer'}"
                )
            if not least <= value <= most or (name in _SECONDS and value == least):
                above = "above" if name in _SECONDS else "at least"
                raise ValueError(f"{name} is {value!r}: it must be {above} {least:g} and at most {most:g}")

    def to_json(self) -> dict[str, Any]:
        """Return what is given as a JSON object."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, record: Any) -> Limits:
        """Read ``to_json``'s object. Raises ValueError."""
        if not isinstance(record, dict) or not set(record) <= set(BOUNDS):
            raise ValueError(f"limits are an object with some of {', '.join(BOUNDS)}")
        return cls(**record)


@dataclass(frozen=True)
class RunOptions:
    """How each call of a bundle shall be run. None: the endpoint's own setting.

    ``timeout``: seconds of run time; ``memory``: bytes; ``cpu``: seconds of processor time; ``cores``: slots
    of one node that each call occupies (None: one); ``output``: bytes kept of what it writes; ``open_files``:
    files and sockets that it may have open.
    """

    timeout: float | None = None
    memory: int | None = None
    cpu: float | None = None
    cores: int | None = None
    output: int | None = None
    open_files: int | None = None

    def tightened(self, other: RunOptions | Limits | None) -> RunOptions:
        """These options with, of each limit, the smaller one of both; None is no limit."""
        smaller = {}
        for name in BOUNDS if other is not None else ():
            mine, theirs = getattr(self, name), getattr(other, name)
            if theirs is not None and (mine is None or theirs < mine):
                smaller[name] = theirs
        return replace(self, **smaller) if smaller else self


def limits_of_function(body: bytes) -> Limits | None:
    """Return the limits of a serialized function, or None. Raises ValueError for damaged ones."""
    record = function_header(body, "limits")
    return None if record is None else Limits.from_json(record)
