"""What a report says of a call beside how it ended: what it wrote, what it yielded, and where it ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


class Items(NamedTuple):
    """What a call has yielded since the last time: ``items``, serialized, the first of them number ``first``.

    ``total``: how many there were in all, None as long as the call goes on.
    """

    first: int
    items: Sequence[bytes]
    total: int | None = None


class Streamed(NamedTuple):
    """Items of a start of a task, which is told from others by its bundle."""

    bundle_id: str
    task_id: str
    items: Items


def write_said(outcomes: Iterable[Any]) -> tuple[list[tuple[Any, ...]], list[bytes]]:
    """What calls wrote, of their outcomes, as a list for a report's header and the pieces of its body."""
    said = [(o.task_id, o.attempt, o.log) for o in outcomes if o.log is not None]
    rows = [(*who, len(log.head), len(log.tail), log.total) for *who, log in said]
    return rows, [part for *_, log in said for part in log[:2]]


def write_streamed(outcomes: Mapping[str, Iterable[Any]]) -> tuple[list[tuple[Any, ...]], list[bytes]]:
    """What calls yielded, of outcomes by bundle, as a list for a report's header and pieces of its body."""
    told = [(b, o.task_id, o.items) for b, some in outcomes.items() for o in some if o.items]
    rows = [(*who, items.first, items.total, [*map(len, items.items)]) for *who, items in told]
    return rows, [item for *_, items in told for item in items.items]


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


def read_streamed(rows: Iterable[list[Any]], body: bytes, offset: int) -> Iterable[Streamed]:
    """Read a report's list of what calls yielded, whose bytes lie in ``body`` from ``offset`` on.

    Raises ValueError, TypeError when the list does not fit the body.
    """
    for bundle_id, task_id, first, total, sizes in rows:
        items = []
        for size in sizes:
            if not 0 <= size <= len(body) - offset:
                raise ValueError("what a call yielded is not in the body")
            items.append(body[offset : offset + size])
            offset += size
        told = Items(int(first), items, None if total is None else int(total))
        yield Streamed(str(bundle_id), str(task_id), told)
