"""What a report contains about a call in addition to its outcome: its output, its items and its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from . import checks
from .limits import MAX_ATTEMPT, MAX_OUTCOMES, MAX_STREAM_ITEMS


class Log(NamedTuple):
    """What a call wrote to standard output and error, or as much of it as is kept.

    ``head``: the first bytes; ``tail``: the last bytes, b"" if the head is complete; ``total``: number of
    bytes written.
    """

    head: bytes
    tail: bytes
    total: int


class Place(NamedTuple):
    """Where a call ran: host name, process id of the runner, number of the slot.

    ``local``: for each local package that the calls of the bundle have used so far, "node" if it is installed
    on the node and "sent" if its code travelled with the call; None if there are none.
    """

    host: str
    pid: int
    slot: int
    local: dict[str, str] | None = None

    def record(self) -> dict[str, Any]:
        """Return the fields that are set, for the resource record of a call."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class TaskLog(NamedTuple):
    """What an attempt of a task has written so far."""

    task_id: str
    attempt: int
    log: Log


class Items(NamedTuple):
    """The serialized items that a call has yielded since its previous report; ``first``: number of the first.

    ``total``: number of all items, None while the call runs.
    """

    first: int
    items: Sequence[bytes]
    total: int | None = None


class TaskItems(NamedTuple):
    """Items of one start of a task, which its bundle identifies."""

    bundle_id: str
    task_id: str
    items: Items


def write_logs(outcomes: Iterable[Any]) -> tuple[list[tuple[Any, ...]], list[bytes]]:
    """Return what calls wrote as a list for a report's header and the pieces of its body."""
    logs = [(o.task_id, o.attempt, o.log) for o in outcomes if o.log is not None]
    rows = [(*task, len(log.head), len(log.tail), log.total) for *task, log in logs]
    return rows, [part for *_, log in logs for part in log[:2]]


def write_items(outcomes: Mapping[str, Iterable[Any]]) -> tuple[list[tuple[Any, ...]], list[bytes]]:
    """Return what calls yielded, by bundle, as a list for a report's header and the pieces of its body."""
    yielded = [(b, o.task_id, o.items) for b, some in outcomes.items() for o in some if o.items]
    rows = [(*task, items.first, items.total, [*map(len, items.items)]) for *task, items in yielded]
    return rows, [item for *_, items in yielded for item in items.items]


def read_logs(rows: Any, body: bytes, offset: int) -> Iterable[TaskLog]:
    """Read a report's list of what calls wrote; its bytes are in ``body`` from ``offset`` on.

    Raises ValueError or TypeError if the list does not match the body.
    """
    for task_id, attempt, head, tail, total in checks.array(rows, MAX_OUTCOMES):
        middle = offset + checks.integer(head)
        end = middle + checks.integer(tail)
        if end > len(body):
            raise ValueError("the output of a call is not in the body")
        log = Log(body[offset:middle], body[middle:end], checks.integer(total))
        yield TaskLog(checks.identifier(task_id), checks.integer(attempt, MAX_ATTEMPT), log)
        offset = end


def read_items(rows: Any, body: bytes, offset: int) -> Iterable[TaskItems]:
    """Read a report's list of what calls yielded; its bytes are in ``body`` from ``offset`` on.

    Raises ValueError or TypeError if the list does not match the body.
    """
    for bundle_id, task_id, first, total, sizes in checks.array(rows, MAX_OUTCOMES):
        items = []
        for size in checks.array(sizes, MAX_STREAM_ITEMS):
            if checks.integer(size) > len(body) - offset:
                raise ValueError("an item of a call is not in the body")
            items.append(body[offset : offset + size])
            offset += size
        if total is not None:
            checks.integer(total)
        yielded = Items(checks.integer(first), items, total)
        yield TaskItems(checks.identifier(bundle_id), checks.identifier(task_id), yielded)
