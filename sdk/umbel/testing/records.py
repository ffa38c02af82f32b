"""What the service in memory keeps: tasks, what they yield, and groups."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from ..protocol.states import TaskState

Record = dict[str, Any]


@dataclass
class Stream:
    """Items of a task's last start that yielded; ``run`` counts those starts."""

    run: int = 0
    items: list[bytes] = field(default_factory=list)

    def add(self, item: bytes | None) -> None:
        """Take the next item; None: another start begins to yield."""
        if item is None:
            self.run += 1
            self.items = []
        else:
            self.items.append(item)

    def news(self, after: int, run: int | None) -> bool:
        """Tell whether there is anything beyond the first ``after`` items of ``run``."""
        return len(self.items) > after or (run is not None and run != self.run)

    def page(self, after: int, run: int | None, limit: int, *, ended: bool) -> dict[str, Any]:
        """Some items as the API shows them."""
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
    """A task; ``record`` is what the API shows, the rest what it takes to run it."""

    record: Record
    payload: bytes
    options: Record
    attempt: int = 0
    completion: int = 0
    outcome: Record = field(default_factory=dict)
    stream: Stream = field(default_factory=Stream)

    @property
    def state(self) -> TaskState:
        """Where the task is."""
        return TaskState(self.record["state"])


@dataclass
class Group:
    """A group: its tasks, and those that have ended in the order in which they did."""

    id: str
    created: float
    tasks: list[Task] = field(default_factory=list)
    finished: list[Task] = field(default_factory=list)
