"""How the calls of a submission run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Options:
    """Options of a submission, for ``Client.submit``. ``Executor`` takes the same options as arguments.

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
    """

    timeout: float | None = None
    memory: int | None = None
    cpu: float | None = None
    output: int | None = None
    expires: float | None = None
    retries: int | None = None
    retry_on: Sequence[str | type[BaseException]] | None = None
    priority: int | None = None
    max_attempts: int | None = None
    tags: Sequence[str] | None = None
    cores: int | None = None
    open_files: int | None = None
    isolation: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the options that are set as a JSON object of the API."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values = {name: value for name, value in values.items() if value is not None}
        if "retry_on" in values:
            values["retry_on"] = [_exception_name(item) for item in values["retry_on"]]
        if "tags" in values:
            values["tags"] = list(values["tags"])
        return values


def _exception_name(item: str | type[BaseException]) -> str:
    if isinstance(item, str):
        return item
    module = item.__module__
    return item.__qualname__ if module == "builtins" else f"{module}.{item.__qualname__}"
