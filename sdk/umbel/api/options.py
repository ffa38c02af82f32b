"""How the calls of a submission shall be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Options:
    """Options of a submission; what is None is left to the service. Times in seconds, sizes in bytes.

    ``timeout``: run time after which a call ends with ``TIMEOUT``. ``memory``, ``cpu``: limits likewise.
    ``output``: bytes kept of what a call writes to standard output and error. ``open_files``: files and
    sockets that it may have open. Of these limits the smallest counts: this, the function's, the endpoint's.
    ``expires``: time in the queue after which a call that has not started ends as ``EXPIRED``.
    ``retries``: how often a call that raised is run again; ``retry_on``: only for these exceptions (classes
    or their names). ``priority``: -100 to 100, higher goes first among the caller's own. ``max_attempts``:
    how often a call may be started when workers die under it. ``tags``: free labels. ``cores``: slots of one
    node that each call occupies while it runs, where one slot is one core unless the site says otherwise.
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

    def to_json(self) -> dict[str, Any]:
        """Return what is set as the API's object."""
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
