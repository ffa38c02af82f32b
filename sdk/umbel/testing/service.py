"""A service in memory: the behaviour of the API without a server, a ledger or an endpoint.

Calls run in threads of this process, so a running call that is cancelled or exceeds its timeout is not
stopped: its task finishes, and its result is discarded. Everything else, including serialization, is as
with a real service.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import itertools
import platform
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from ..protocol import limits, names
from ..protocol.environment import local_of_function, of_function
from ..protocol.errors import BadRequest, Conflict, NotFound, TooLarge
from ..protocol.run_options import RunOptions, limits_of_function
from ..protocol.states import TaskState
from .records import Group, Record, Task, functions_of
from .workers import Workers

S = TaskState


class MemoryService:
    """Functions, tasks and groups in memory, and threads that run the calls. Thread-safe.

    ``workers``: number of calls that run at once; 0 simulates an offline endpoint. ``endpoints``: names of
    the endpoints that exist, None for every name.
    """

    def __init__(self, workers: int = 4, endpoints: tuple[str, ...] | None = None):
        self.changed = threading.Condition()
        self.workers = workers
        self.endpoints = endpoints
        self.functions: dict[str, Record] = {}
        self.tasks: dict[str, Task] = {}
        self.groups: dict[str, Group] = {}
        self._answers: dict[str, Record] = {}
        self._queue: list[tuple[int, int, Task]] = []
        self._order = itertools.count()
        self._closed = False
        self._threads = Workers(self)
        for _ in range(workers):
            self._threads.start_thread()

    def close(self) -> None:
        """Stop the workers: no more calls start."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()

    def register(self, body: Record) -> Record:
        """Register a function; equal code has one id."""
        data = base64.b64decode(body["body"])
        digest = hashlib.sha256(data).hexdigest()
        with self.changed:
            for known in self.functions.values():
                if known["sha256"] == digest:
                    return known
            record = {
                "id": names.new_id(),
                "name": body["name"],
                "description": body.get("description", ""),
                "source": body.get("source"),
                "sha256": digest,
                **_header_fields(data),
                "size": len(data),
                "created": time.time(),
                "data": data,
            }
            self.functions[record["id"]] = record
            return record

    def submit(self, body: Record, payloads: Sequence[bytes], key: str | None) -> Record:
        """Accept calls. Raises BadRequest, NotFound, TooLarge, Conflict."""
        with self.changed:
            if key is not None and key in self._answers:
                return self._answers[key]
            self._check(body, payloads)
            group_id = body.get("group_id") or names.new_id()
            now = time.time()
            group = self.groups.setdefault(group_id, Group(group_id, now))
            ids = names.new_task_ids(len(payloads), now)
            functions = [id for id, calls in functions_of(body, payloads) for _ in range(calls)]
            for task_id, function_id, payload in zip(ids, functions, payloads):
                self._add(task_id, function_id, payload, body, group, now)
            answer = {"group_id": group_id, "task_ids": ids}
            if key is not None:
                self._answers[key] = answer
            self.changed.notify_all()
            return answer

    def function(self, task: Task) -> bytes:
        """Return the serialized function of a task."""
        return bytes(self.functions[task.record["function_id"]]["data"])

    def task(self, task_id: str) -> Task:
        """Return a task. Raises NotFound."""
        task = self.tasks.get(task_id)
        if task is None:
            raise NotFound(f"there is no task {task_id}", code="TASK_NOT_FOUND")
        self._expire(task)
        return task

    def group(self, group_id: str) -> Group:
        """Return a group. Raises NotFound."""
        group = self.groups.get(group_id)
        if group is None:
            raise NotFound(f"there is no group {group_id}", code="GROUP_NOT_FOUND")
        return group

    def cancel(self, task: Task) -> bool:
        """Cancel a task; return False if it has already finished."""
        with self.changed:
            was_running = task.state is S.RUNNING
            cancelled = self._finish(task, task.attempt, S.CANCELLED, {"code": None, "message": None})
        if cancelled and was_running:
            self._threads.start_thread()
        return cancelled

    def result(self, task: Task) -> Record:
        """Return the outcome of a task. Raises Conflict."""
        if not task.state.final:
            raise Conflict(f"task {task.record['id']} has not finished yet", code="RESULT_NOT_READY")
        return task.outcome

    def results(
        self, group: Group, after: int, wait: float, limit: int, given_up: Callable[[], bool]
    ) -> Record:
        """Return results of a group after a completion number; wait up to ``wait`` seconds for one."""
        with self.changed:
            self.changed.wait_for(lambda: len(group.finished) > after or given_up(), wait)
            found = group.finished[after : after + limit]
            live = len(group.tasks) - len(group.finished)
            return {
                "results": [{**task.outcome, "completion": task.completion} for task in found],
                "cursor": after + len(found),
                "live": live,
            }

    def add_item(self, task: Task, attempt: int, item: bytes | None) -> None:
        """Add an item that a call yields. None: it begins to yield."""
        with self.changed:
            if attempt == task.attempt and not task.state.final:
                task.stream.add(item)
                self.changed.notify_all()

    def endpoint(self, name: str) -> Record:
        """Return an endpoint's record. Raises NotFound."""
        if self.endpoints is not None and name not in self.endpoints:
            raise NotFound(f"there is no endpoint {name!r}", code="ENDPOINT_NOT_FOUND")
        states = Counter(t.record["state"] for t in self.tasks.values() if t.record["endpoint_id"] == name)
        return {
            "id": name,
            "name": name,
            "description": "in memory",
            "metadata": {},
            "state": "online" if self.workers else "offline",
            "suspended": None,
            "slots_total": self.workers,
            "slots_free": max(0, self.workers - states[S.RUNNING.value]),
            "queue": dict(states),
            "nodes": [],
            "python": platform.python_version(),
            "platform": sys.platform,
            "packages": {},
        }

    def _check(self, body: Record, payloads: Sequence[bytes]) -> None:
        self.endpoint(body["endpoint_id"])
        for function_id, _ in functions_of(body, payloads):
            if function_id not in self.functions:
                raise NotFound(f"there is no function {function_id}", code="FUNCTION_NOT_FOUND")
        if not 1 <= len(payloads) <= limits.MAX_CALLS_PER_SUBMISSION:
            raise BadRequest(
                f"a submission must have 1 to {limits.MAX_CALLS_PER_SUBMISSION} calls, got {len(payloads)}",
                code="VALIDATION_ERROR",
            )
        largest = max(map(len, payloads))
        if largest > limits.MAX_PAYLOAD_BYTES:
            raise TooLarge(
                f"a call has {largest} bytes of arguments, the limit is {limits.MAX_PAYLOAD_BYTES}"
            )

    def _add(self, task_id: str, fn_id: str, payload: bytes, body: Record, group: Group, now: float) -> None:
        options = body.get("options", {})
        record = {
            "id": task_id,
            "state": S.QUEUED.value,
            "group_id": group.id,
            "function_id": fn_id,
            "function_name": self.functions[fn_id]["name"],
            "endpoint_id": body["endpoint_id"],
            "attempt": 0,
            "priority": options.get("priority", 0),
            "created": now,
            "options": options,
            "tags": options.get("tags", []),
            **dict.fromkeys(
                ("queued", "started", "finished", "wall", "node", "code", "message", "usage", "result_size")
            ),
        }
        own = limits_of_function(self.functions[fn_id]["data"])
        timeout = RunOptions(options.get("timeout")).tightened(own).timeout
        task = Task(record, payload, {**options, "timeout": timeout})
        self.tasks[task_id] = task
        group.tasks.append(task)
        heapq.heappush(self._queue, (-record["priority"], next(self._order), task))

    def _expire(self, task: Task) -> None:
        expires = task.options.get("expires")
        if expires is not None and task.state is S.QUEUED and time.time() > task.record["created"] + expires:
            with self.changed:
                outcome = {"code": "EXPIRED", "message": f"the task was not started within {expires} s"}
                self._finish(task, task.attempt, S.EXPIRED, outcome)

    def take(self) -> tuple[Task, int] | None:
        """Wait for a queued call; return it and its attempt, or None when the service is closed."""
        with self.changed:
            while True:
                self.changed.wait_for(lambda: self._closed or self._queue)
                if self._closed:
                    return None
                task = heapq.heappop(self._queue)[2]
                self._expire(task)
                if task.state is S.QUEUED:
                    task.attempt += 1
                    node = threading.current_thread().name
                    started = time.time()
                    task.record.update(
                        state=S.RUNNING.value, attempt=task.attempt, started=started, node=node
                    )
                    return task, task.attempt

    def end(self, task: Task, attempt: int, state: TaskState, outcome: Record) -> bool:
        """Record the outcome of a call; return False if the task had already finished."""
        with self.changed:
            name = outcome.pop("name", None)
            return self._retry(task, attempt, name) or self._finish(task, attempt, state, outcome)

    def _retry(self, task: Task, attempt: int, exception: str | None) -> bool:
        if exception is None or task.state is not S.RUNNING or attempt > task.options.get("retries", 0):
            return False
        wanted = task.options.get("retry_on")
        if wanted and not {exception, exception.rpartition(".")[2]} & set(wanted):
            return False
        task.record["state"] = S.QUEUED.value
        heapq.heappush(self._queue, (-task.record["priority"], next(self._order), task))
        self.changed.notify_all()
        return True

    def _finish(self, task: Task, attempt: int, state: TaskState, outcome: Record) -> bool:
        if task.state.final or attempt != task.attempt:
            return False
        now, started = time.time(), task.record["started"]
        data, exception = outcome.pop("result", None), outcome.pop("exception", None)
        task.record.update(
            state=state.value,
            finished=now,
            wall=now - started if started is not None else None,
            queued=started - task.record["created"] if started is not None else None,
            result_size=len(data) if data is not None else None,
            **outcome,
        )
        group = self.groups[task.record["group_id"]]
        group.finished.append(task)
        task.completion = len(group.finished)
        task.outcome = {
            "task_id": task.record["id"],
            **{
                k: task.record[k]
                for k in ("state", "node", "queued", "started", "finished", "wall", "usage", *outcome)
            },
            "result": base64.b64encode(data).decode() if data is not None else None,
            "exception": base64.b64encode(exception).decode() if exception is not None else None,
        }
        self.changed.notify_all()
        return True


def _header_fields(body: bytes) -> Record:
    """Environment and limits in a serialized function, as the API returns them."""
    environment, limits = of_function(body), limits_of_function(body)
    return {
        "environment": (
            None if environment is None else {"digest": environment.digest, **environment.to_json()}
        ),
        "limits": None if limits is None else limits.to_json(),
        "local": local_of_function(body),
    }
