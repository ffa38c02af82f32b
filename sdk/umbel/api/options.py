"""How the calls of a submission run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from ..protocol.limits import MAX_CORES
from ..protocol.run_options import BOUNDS
from ..protocol.units import read_size, read_time


@dataclass(frozen=True)
class Options:
    """Options of a submission, for ``Client.submit``. ``Executor`` takes the same options as arguments.

    Times are seconds or strings such as ``"5min"``, sizes are bytes or strings such as ``"2GiB"``.
    ``timeout``, ``memory``, ``cpu``, ``output`` and ``open_files`` are limits: of the submission's, the
    function's (``umbel.function``) and the endpoint's limit, the smallest applies.

    Args:
        timeout: Run time of a call, seconds, above 0. A longer call ends with the code ``TIMEOUT``.
        memory: Memory of a call, bytes, at least 1 MiB. A call that needs more ends with ``MEMORY_LIMIT``.
        cpu: Processor time of a call, seconds, above 0. A call that uses more ends with ``TIMEOUT``.
        output: How much of a call's standard output and standard error is kept, bytes, at most 1 MiB.
            Default: 64 KiB.
        expires: Time in the queue, seconds, after which a call that has not started expires (``EXPIRED``).
            Default: never; calls wait for an offline endpoint indefinitely.
        retries: How often a call that raised an exception runs again, 0 to 100. Default: 0.
        retry_on: The exceptions, classes or names such as ``"ValueError"`` or ``"package.Error"``, after
            which a call runs again. Default: all.
        priority: -100 to 100. Calls with a higher priority start first among the user's own. Default: 0.
        max_attempts: How often a call is started at most when workers are lost, 1 to 100. Default: 3.
        tags: Labels to find tasks by, at most 32 of at most 64 characters.
        cores: Slots of one node that each call occupies while it runs. One slot is one core unless the site
            configures otherwise. Default: 1.
        open_files: Files and sockets that a call may have open, at least 32.
        isolation: ``"process"``: each call runs in a new process, which ends with it. Default: a process runs
            many calls and is restored between them.
        nested: True: calls may submit further calls in the user's name while they run, if the endpoint allows
            it. Default: False.

    Raises:
        ValueError: An option has the wrong type or is out of range.
    """

    timeout: float | str | None = None
    memory: int | str | None = None
    cpu: float | str | None = None
    output: int | str | None = None
    expires: float | str | None = None
    retries: int | None = None
    retry_on: Sequence[str | type[BaseException]] | None = None
    priority: int | None = None
    max_attempts: int | None = None
    tags: Sequence[str] | None = None
    cores: int | None = None
    open_files: int | None = None
    isolation: str | None = None
    nested: bool | None = None

    def __post_init__(self) -> None:
        for name in ("timeout", "cpu", "expires"):
            object.__setattr__(self, name, read_time(name, getattr(self, name)))
        for name in ("memory", "output"):
            object.__setattr__(self, name, read_size(name, getattr(self, name)))
        for name, (least, most, is_time) in _RANGES.items():
            _check_number(name, getattr(self, name), least, most, is_time)
        object.__setattr__(self, "tags", _strings("tags", self.tags))
        object.__setattr__(self, "retry_on", _exceptions(self.retry_on))
        if self.isolation not in (None, "process"):
            raise ValueError(f"isolation must be 'process' or None, got {self.isolation!r}")
        if self.nested is not None and not isinstance(self.nested, bool):
            raise ValueError(f"nested must be True, False or None, got {self.nested!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the options that are set as a JSON object of the API."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values = {name: _plain(value) for name, value in values.items() if value is not None}
        if "retry_on" in values:
            values["retry_on"] = [_exception_name(item) for item in values["retry_on"]]
        if "tags" in values:
            values["tags"] = list(values["tags"])
        return values


#: Smallest and largest value of each number, and whether it is a time, which must be above the smallest.
_RANGES: dict[str, tuple[float, float, bool]] = {
    **{name: (*bounds, name in ("timeout", "cpu")) for name, bounds in BOUNDS.items()},
    "expires": (0.0, 366 * 86400.0, True),
    "retries": (0, 100, False),
    "priority": (-100, 100, False),
    "max_attempts": (1, 100, False),
    "cores": (1, MAX_CORES, False),
}
MAX_TAGS, MAX_TAG = 32, 64


def _check_number(name: str, value: Any, least: float, most: float, is_time: bool) -> None:
    if value is None:
        return
    kind = "a number of seconds" if is_time else "an integer"
    number = Real if is_time else Integral
    if isinstance(value, bool) or not isinstance(value, number) or not math.isfinite(value):
        raise ValueError(f"{name} must be {kind}, got {value!r}")
    if not least <= float(value) <= most or (is_time and value == least):
        above = "above" if is_time else "at least"
        raise ValueError(f"{name} must be {above} {least:.15g} and at most {most:.15g}, got {value!r}")


def _strings(name: str, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a list of strings, got {value!r}")
    found = tuple(value)
    if len(found) > MAX_TAGS or not all(
        isinstance(item, str) and 1 <= len(item) <= MAX_TAG for item in found
    ):
        raise ValueError(
            f"{name} must be at most {MAX_TAGS} strings of 1 to {MAX_TAG} characters, got {value!r}"
        )
    return found


def _exceptions(value: Any) -> tuple[Any, ...] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"retry_on must be a list of exceptions, classes or names, got {value!r}")
    found = tuple(value)
    for item in found:
        if not isinstance(item, str) and not (isinstance(item, type) and issubclass(item, BaseException)):
            raise ValueError(f"retry_on must contain exceptions, classes or names, got {item!r}")
    return found


def _plain(value: Any) -> Any:
    """Return a number of another library, such as NumPy's, as one of Python's."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def _exception_name(item: str | type[BaseException]) -> str:
    if isinstance(item, str):
        return item
    module = item.__module__
    return item.__qualname__ if module == "builtins" else f"{module}.{item.__qualname__}"
