"""Records of the service in memory: tasks, their items, and groups."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..protocol.errors import BadRequest
from ..protocol.states import TaskState

Record = dict[str, Any]


@dataclass
class Stream:
    """Items of the last start of a task that yielded; ``run`` counts such starts."""

    run: int = 0
    items: list[bytes] = field(default_factory=list)

    def add(self, item: bytes | None) -> None:
        """Add the next item. None: another start begins to yield."""
        if item is None:
            self.run += 1
            self.items = []
        else:
            self.items.append(item)

    def has_new(self, after: int, run: int | None) -> bool:
        """Return whether there are items after the first ``after`` of ``run``."""
        return len(self.items) > after or (run is not None and run != self.run)

    def page(self, after: int, run: int | None, limit: int, *, ended: bool) -> dict[str, Any]:
        """Return items as an answer of the API."""
        start = after if run is None or run == self.run else 0
        found = self.items[start : start + limit]
        cursor = start + len(found)
        return {
            "run": self.run,
            "items": [base64.b64encode(item).decode() for item in found],
            "cursor": cursor,
            "total": len(self.items) if ended and self.run else None,
            "ended": ended and cursor >= len(self.items),
        }


@dataclass
class Task:
    """A task. ``record`` is the API's record of it; the rest is needed to run it."""

    record: Record
    payload: bytes
    options: Record
    attempt: int = 0
    completion: int = 0
    outcome: Record = field(default_factory=dict)
    stream: Stream = field(default_factory=Stream)

    @property
    def state(self) -> TaskState:
        """State of the task."""
        return TaskState(self.record["state"])


@dataclass
class Group:
    """A group: its tasks, and its finished tasks in the order of completion."""

    id: str
    created: float
    tasks: list[Task] = field(default_factory=list)
    finished: list[Task] = field(default_factory=list)


def functions_of(body: Record, payloads: Sequence[bytes]) -> list[tuple[str, int]]:
    """Return the functions of a submission and their numbers of calls. Raises BadRequest."""
    if "function_id" in body:
        return [(body["function_id"], len(payloads))]
    found = [(each["function_id"], each["calls"]) for each in body["functions"]]
    if sum(calls for _, calls in found) != len(payloads):
        raise BadRequest("the numbers of calls must add up to the number of payloads")
    return found
