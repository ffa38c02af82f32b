"""Access of calls to the service, for bundles that come with a grant."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from umbel.system import call_access

from ..ipc.shared_memory import SharedProgress


def offering(header: dict[str, Any], progress: SharedProgress) -> AbstractContextManager[None]:
    """Let the calls of a bundle use its grant, if it has one, until the block ends."""
    record = header.get("access")
    if record is None:
        return call_access.offering(None)
    tasks: list[str] = record["tasks"]
    access = call_access.CallAccess(
        record["url"], record["grant"], lambda: tasks[max(progress.started, 1) - 1]
    )
    return call_access.offering(access)
