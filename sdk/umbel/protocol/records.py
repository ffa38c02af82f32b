"""What a report says of a call beside how it ended: what it wrote, and where it ran."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Log(NamedTuple):
    """What a call wrote to standard output and error, or as much of it as is kept.

    ``head``: the first bytes; ``tail``: the last ones, b"" where the head is all; ``total``: how many bytes
    it wrote.
    """

    head: bytes
    tail: bytes
    total: int


class Place(NamedTuple):
    """Where a call ran: the host's name, the runner's process id, the number of its slot."""

    host: str
    pid: int
    slot: int


class Said(NamedTuple):
    """What a try of a task has written so far."""

    task_id: str
    attempt: int
    log: Log


def read_said(rows: Iterable[list[Any]], body: bytes, offset: int) -> Iterable[Said]:
    """Read a report's list of what calls wrote, whose bytes lie in ``body`` from ``offset`` on.

    Raises ValueError, TypeError when the list does not fit the body.
    """
    for task_id, attempt, head, tail, total in rows:
        middle, end = offset + head, offset + head + tail
        if not offset <= middle <= end <= len(body):
            raise ValueError("what a call wrote is not in the body")
        yield Said(str(task_id), int(attempt), Log(body[offset:middle], body[middle:end], int(total)))
        offset = end
