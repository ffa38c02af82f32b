"""The options of a submission."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache

from umbel.protocol.limits import DEFAULT_MAX_ATTEMPTS
from umbel.protocol.messages import RunOptions


@dataclass(frozen=True)
class Options:
    """Options that apply to each call of a submission. Times in seconds, sizes in bytes.

    ``timeout``: run time after which a call is stopped with TIMEOUT. ``memory``, ``cpu``: limits on memory
    and CPU time. ``output``: bytes kept of a call's output. ``open_files``: limit on open files and sockets.
    ``expires``: time in the queue after which a call that has not started expires. ``retries``: how often a
    call that raised an exception is run again; ``retry_on``: only for these exception names (``ValueError``
    or ``package.Error``), for all if empty. ``priority``: −100 to 100; among the user's own calls, higher
    priority goes first. ``max_attempts``: how often a call is started at most when workers are lost.
    ``tags``: free labels. ``cores``: slots of one node that each call occupies. ``isolation``: "process" for
    calls that need a process of their own. ``nested``: calls may submit further calls.
    """

    timeout: float | None = None
    memory: int | None = None
    cpu: float | None = None
    output: int | None = None
    expires: float | None = None
    retries: int = 0
    retry_on: tuple[str, ...] = ()
    priority: int = 0
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    tags: tuple[str, ...] = ()
    cores: int = 1
    open_files: int | None = None
    isolation: str | None = None
    nested: bool = False

    def to_json(self) -> str:
        """Return the options that differ from the defaults as a JSON object."""
        return _write(self)

    @classmethod
    def from_json(cls, text: str) -> Options:
        """Parse the output of ``to_json``."""
        return _read(text)

    @property
    def run(self) -> RunOptions:
        """The options that are sent to the worker."""
        cores = self.cores if self.cores > 1 else None
        rest = cores, self.output, self.open_files, self.isolation, self.nested or None
        return RunOptions(self.timeout, self.memory, self.cpu, *rest)

    def retries_on(self, exception: str) -> bool:
        """Return whether to retry after an exception, named ``module.Class``."""
        return not self.retry_on or any(
            exception == name or exception.rpartition(".")[2] == name for name in self.retry_on
        )


_DEFAULTS = asdict(Options())


@lru_cache(maxsize=1024)
def _write(options: Options) -> str:
    return json.dumps({k: v for k, v in asdict(options).items() if v != _DEFAULTS[k]}, sort_keys=True)


@lru_cache(maxsize=1024)
def _read(text: str) -> Options:
    values = json.loads(text)
    for name in ("retry_on", "tags"):
        if name in values:
            values[name] = tuple(values[name])
    return Options(**values)
