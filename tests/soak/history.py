"""The checker: what the client asked for and saw, what the functions saw, and whether both fit the promises.

The client's log has one JSON object a line:

``{"event": "made", "number", "group", "starts", "may"}``
    A call: its number, its group, how often it may be started, and which outcomes are right.
``{"event": "ended", "number", "task", "outcome"}``
    Its future has ended; ``task`` is null if the service never accepted it.
``{"event": "seen", "group", "task", "completion", "state", "code", "digest"}``
    The service showed this result; every task is shown several times, at different moments.
``{"event": "strike", "what"}`` and ``{"event": "calm", "what"}``
    What the nemesis does next, and that it is over.

The functions' log has a line with the call's number for each start. Outcomes are texts: ``value``,
``ValueError``, ``cancelled``, or the code of a task that ended otherwise; ``withdrawn`` is a future that was
cancelled before the service's acceptance was known, so that the service may have been quicker; ``refused`` is
a call that the service did not accept because its disk was full, and ``unanswered`` one of a client that
waited for acceptance for a short time only.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

#: What an outcome must be at the service: its state and, if it failed, its code.
_STATES = {
    "value": ("succeeded", None),
    "ValueError": ("failed", "TASK_ERROR"),
    "cancelled": ("cancelled", None),
    "EXPIRED": ("expired", None),
}
#: Outcomes of calls that the client does not know as tasks of the service; only the last one surely is none.
_UNKNOWN = ("withdrawn", "unanswered", "refused")
#: How the strikes begin during which a call may be refused.
FULL_DISK = "full disk of the service"
#: Most faults of one kind that are told.
_TOLD = 10


class History:
    """Everything that was noted."""

    def __init__(self, events: Iterable[dict[str, Any]], starts: Iterable[int]):
        self.made: dict[int, dict[str, Any]] = {}
        self.ended: dict[int, list[dict[str, Any]]] = defaultdict(list)
        self.seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.starts = Counter(starts)
        # of strikes with a full disk: place of the first and of the last event
        self.full: list[list[float]] = []
        for place, event in enumerate(events):
            event["place"] = place
            if event["event"] == "made":
                self.made[event["number"]] = event
            elif event["event"] == "ended":
                self.ended[event["number"]].append(event)
            elif event["event"] == "seen":
                self.seen[event["task"]].append(event)
            elif event["event"] == "strike" and event["what"].startswith(FULL_DISK):
                self.full.append([place, float("inf")])
            elif event["event"] == "calm" and event["what"].startswith(FULL_DISK):
                self.full[-1][1] = place
        self.number_of = {
            event["task"]: number
            for number, events in self.ended.items()
            for event in events
            if event["task"]
        }

    @classmethod
    def read(cls, client: Path, functions: Path) -> History:
        """Read both logs."""
        events = [json.loads(line) for line in client.read_text(encoding="utf-8").splitlines()]
        return cls(events, [int(line) for line in functions.read_text(encoding="utf-8").split()])

    def faults(self) -> list[str]:
        """All broken promises, in words; none is what is wanted."""
        found = []
        for check in (self._futures, self._results, self._tasks, self._numbers, self._starts):
            faults = list(check())
            found += faults[:_TOLD]
            if len(faults) > _TOLD:
                found.append(f"... and {len(faults) - _TOLD} more of this kind")
        return found

    def summary(self) -> str:
        """What happened, in one line."""
        outcomes = Counter(events[0]["outcome"] for events in self.ended.values() if events)
        ends = ", ".join(f"{name} {count:,}" for name, count in outcomes.most_common())
        starts, again = sum(self.starts.values()), sum(count > 1 for count in self.starts.values())
        return f"{len(self.made):,} calls ({ends}), {starts:,} starts, {again:,} started again"

    def _futures(self) -> Iterator[str]:
        """Every call's future ends, once, as it should.

        ``WORKER_LOST`` is right for any call whose every allowed start was killed, and for no other.
        """
        for number, made in self.made.items():
            ended = self.ended.get(number, [])
            if len(ended) != 1:
                yield f"call {number}: its future ended {len(ended)} times"
            for event in ended:
                if event["outcome"] == "refused":
                    continue  # see _starts
                killed = event["outcome"] == "WORKER_LOST" and self.starts[number] == made["starts"]
                if event["outcome"] not in made["may"] and not killed:
                    yield f"call {number}: ended as {event['outcome']}, allowed: {', '.join(made['may'])}"

    def _results(self) -> Iterator[str]:
        """No accepted task is lost, and the service shows each as its future ended."""
        for number, events in self.ended.items():
            for event in events:
                if event["task"] is None:
                    if event["outcome"] not in _UNKNOWN:
                        yield f"call {number}: never accepted, its future ended as {event['outcome']}"
                    continue
                if event["outcome"] in ("unanswered", "refused"):
                    yield f"call {number}: accepted, its future ended as {event['outcome']}"
                seen = self.seen.get(event["task"])
                if not seen:
                    yield f"call {number}: task {event['task']} is lost"
                    continue
                wanted = _STATES.get(event["outcome"], ("failed", event["outcome"]))
                shown = seen[0]["state"], seen[0]["code"]
                if shown != wanted and event["outcome"] != "withdrawn":
                    yield f"call {number}: ended as {event['outcome']}, the service shows {seen[0]}"

    def _tasks(self) -> Iterator[str]:
        """A task has one result, which never changes, and somebody has asked for it."""
        owners = Counter(event["task"] for events in self.ended.values() for event in events if event["task"])
        for task, count in owners.items():
            if count > 1:
                yield f"task {task} belongs to {count} calls"
        for task, seen in self.seen.items():
            results = {json.dumps({**event, "place": 0}, sort_keys=True) for event in seen}
            if len(results) > 1:
                yield f"task {task} has {len(results)} results: {'; '.join(sorted(results))}"
            number = self.number_of.get(task)
            if number is not None and seen[0]["group"] != self.made[number]["group"]:
                yield f"task {task} of call {number} is in group {seen[0]['group']}"
        yield from self._strangers()

    def _strangers(self) -> Iterator[str]:
        """Only a call whose acceptance was not answered may have a task unknown to it."""
        strangers = Counter(
            seen[0]["group"] for task, seen in self.seen.items() if task not in self.number_of
        )
        unanswered = Counter(
            self.made[number]["group"]
            for number, events in self.ended.items()
            for event in events
            if event["task"] is None and event["outcome"] != "refused"
        )
        for group, number in (strangers - unanswered).items():
            yield f"group {group} has {number} tasks that no call asked for"

    def _numbers(self) -> Iterator[str]:
        """The completion numbers of a group are 1, 2, 3 and so on."""
        groups: dict[str, dict[str, int]] = defaultdict(dict)
        for task, seen in self.seen.items():
            groups[seen[0]["group"]][task] = seen[0]["completion"]
        for group, numbers in groups.items():
            if sorted(numbers.values()) != list(range(1, len(numbers) + 1)):
                yield f"group {group}: completion numbers of {len(numbers)} tasks with gaps or repetitions"

    def _starts(self) -> Iterator[str]:
        """A call is started as often as is allowed, at least once if it has a result, never if refused."""
        for number, count in self.starts.items():
            made = self.made.get(number)
            if made is None:
                yield f"call {number}: nobody asked for it, and it was started"
            elif count > made["starts"]:
                yield f"call {number}: started {count} times, allowed: {made['starts']}"
        for number, events in self.ended.items():
            if not self.starts[number] and any(e["outcome"] in ("value", "ValueError") for e in events):
                yield f"call {number}: ended as {events[0]['outcome']} and was never started"
            if events[0]["outcome"] == "refused":
                yield from self._refused(number, events[0])

    def _refused(self, number: int, ended: dict[str, Any]) -> Iterator[str]:
        """A call is refused only while the disk is full, and then it never runs."""
        if self.starts[number]:
            yield f"call {number}: refused, and started"
        if not any(self.made[number]["place"] < end and ended["place"] > start for start, end in self.full):
            yield f"call {number}: refused, and no disk was full"
