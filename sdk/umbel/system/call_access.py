"""How the running call reaches the service, if its site and its submission allow it; set by the runner.

Kept in memory only: it is in no file, no environment variable and no command line, so programs that a call
starts do not have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class CallAccess:
    """``url``: address of the service, or ""; ``grant``: see ``umbel.protocol.grant``.

    ``task_id`` returns the id of the running call's task.
    """

    url: str
    grant: str = field(repr=False)
    task_id: Callable[[], str]


_offered: list[CallAccess] = []


@contextmanager
def offering(access: CallAccess | None) -> Iterator[None]:
    """Let calls reach the service inside the block; None: they do not."""
    if access is None:
        yield
        return
    _offered.append(access)
    try:
        yield
    finally:
        _offered.clear()


def current() -> CallAccess | None:
    """Return how the running call reaches the service, or None."""
    return _offered[-1] if _offered else None
