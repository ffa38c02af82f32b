"""``LocalService``, and the transport that carries a client's requests to it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any

from ..api.client import Client
from ..api.transport import Request, TransportClosed
from ..executor import Executor
from ..protocol.errors import NotFound
from ..protocol.states import TaskState
from ..protocol.version import __version__
from .records import Record, Task
from .service import MemoryService

__all__ = ["LocalService"]

Handler = Callable[..., Any]


class LocalService:
    """A service in this process, for tests of programs that use Umbel. Use it in a ``with`` block.

    >>> from umbel import testing
    >>> with testing.LocalService() as service, service.executor() as executor:
    ...     executor.submit(pow, 2, 10).result(timeout=10)
    1024

    Executor, client, serialization and errors are those of a real service; only the network, the ledger and
    the endpoint are replaced. Calls run in threads of this process, so ``UmbelFuture.log`` returns an empty
    string, a cancelled call continues although its task is cancelled, and no limit but ``timeout`` applies.

    Args:
        workers: Number of calls that run at once. 0 simulates an endpoint that is offline.
        endpoints: Names of the endpoints that exist. Default: every name.
    """

    def __init__(self, workers: int = 4, endpoints: tuple[str, ...] | None = None):
        self.memory = MemoryService(workers, endpoints)

    def __enter__(self) -> LocalService:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the service: no more calls start."""
        self.memory.close()

    def client(self) -> Client:
        """Return a new ``Client`` of this service."""
        return Client(transport=MemoryTransport(self.memory))

    def executor(self, endpoint: str = "local", **options: Any) -> Executor:
        """Return a new ``Executor`` of this service.

        Args:
            endpoint: Name of the endpoint.
            **options: Other arguments of ``Executor``, except ``client``.

        Returns:
            The executor; close it or use it in a ``with`` block.
        """
        return Executor(endpoint, client=self.client(), **options)


class MemoryTransport:
    """A transport that sends requests to a ``MemoryService`` instead of over HTTP."""

    def __init__(self, service: MemoryService):
        self._service = service
        self._closed = threading.Event()
        routes = _Routes(service, self._closed.is_set)
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = [
            (method, re.compile(pattern), getattr(routes, handler)) for method, pattern, handler in _ROUTES
        ]

    def send(self, request: Request) -> Any:
        """Process a request. Raises ServiceError."""
        if self._closed.is_set() or (request.given_up is not None and request.given_up.is_set()):
            raise TransportClosed()
        for method, pattern, handler in self._routes:
            match = pattern.fullmatch(request.path)
            if method == request.method and match:
                # encoded and decoded, as over HTTP: values that JSON does not support must fail here, too
                sent = Request(**{**vars(request), "body": json.loads(json.dumps(request.body))})
                answer = handler(sent, *match.groups())
                if self._closed.is_set():
                    raise TransportClosed()
                return json.loads(json.dumps(answer))
        raise NotFound(f"umbel.testing does not support {request.method} {request.path}")

    def clone(self) -> MemoryTransport:
        """Return a transport that is closed independently."""
        return MemoryTransport(self._service)

    def close(self) -> None:
        """Close the transport. Requests in progress raise TransportClosed."""
        self._closed.set()
        with self._service.changed:
            self._service.changed.notify_all()


class _GroupRoutes:
    """The API's routes for groups."""

    def __init__(self, service: MemoryService, closed: Callable[[], bool]):
        self.service = service
        self.closed = closed

    def group(self, _: Request, group_id: str) -> Record:
        group = self.service.group(group_id)
        states: dict[str, int] = {}
        for task in group.tasks:
            states[task.record["state"]] = states.get(task.record["state"], 0) + 1
        return {
            "id": group.id,
            "created": group.created,
            "total": len(group.tasks),
            "states": states,
            "finished": len(group.finished) == len(group.tasks),
        }

    def cancel_group(self, request: Request, group_id: str) -> Record:
        started = (request.query or {}).get("started") != "false"
        tasks = self.service.group(group_id).tasks
        return _cancel(self.service, tasks, started)

    def results(self, request: Request, group_id: str) -> Record:
        query = request.query or {}
        group = self.service.group(group_id)
        after, wait, limit = (
            int(query.get("after", 0)),
            float(query.get("wait", 0)),
            int(query.get("limit", 1000)),
        )
        return self.service.results(group, after, wait, limit, self.closed)


class _Routes(_GroupRoutes):
    """The API's routes, by name in ``_ROUTES``."""

    def whoami(self, _: Request) -> Record:
        return {"id": "memory", "name": "memory"}

    def health(self, _: Request) -> Record:
        return {
            "status": "ok",
            "database": "ok",
            "broker": "ok",
            "collector_lag": 0.0,
            "reports_rejected": 0,
            "version": __version__,
        }

    def register(self, request: Request) -> Record:
        return _without_data(self.service.register(request.body))

    def functions(self, request: Request) -> Record:
        return _page(request, [_without_data(record) for record in self.service.functions.values()])

    def function(self, request: Request, function_id: str) -> Record | None:
        record = self.service.functions.get(function_id)
        if record is None:
            raise NotFound(f"there is no function {function_id}", code="FUNCTION_NOT_FOUND")
        if request.method == "DELETE":
            del self.service.functions[function_id]
            return None
        return _without_data(record)

    def endpoints(self, request: Request) -> Record:
        known = self.service.endpoints or ("local",)
        return _page(request, [self.service.endpoint(name) for name in known])

    def endpoint(self, _: Request, name: str) -> Record:
        return self.service.endpoint(name)

    def submit(self, request: Request) -> Record:
        return self.service.submit(request.body, list(request.blobs or ()), request.key)

    def tasks(self, request: Request) -> Record:
        query = request.query or {}
        same = {
            k: str(query[k])
            for k in ("state", "function_id", "endpoint_id", "group_id")
            if query.get(k) is not None
        }
        records = [task.record for task in list(self.service.tasks.values())]
        found = [record for record in records if all(record[key] == value for key, value in same.items())]
        return _page(request, found[::-1])

    def task(self, _: Request, task_id: str) -> Record:
        return self.service.task(task_id).record

    def cancel_tasks(self, request: Request) -> Record:
        known = [self.service.tasks.get(task_id) for task_id in request.body["task_ids"]]
        return _cancel(self.service, [task for task in known if task is not None], request.body["started"])

    def cancel(self, _: Request, task_id: str) -> Record:
        task = self.service.task(task_id)
        self.service.cancel(task)
        return task.record

    def result(self, _: Request, task_id: str) -> Record:
        return self.service.result(self.service.task(task_id))

    def log(self, request: Request, task_id: str) -> Record:
        # calls run in threads of this process, which share its standard output
        task, wait = self.service.task(task_id), float((request.query or {}).get("wait", 0))
        with self.service.changed:
            self.service.changed.wait_for(lambda: task.state.final or self.closed(), wait)
        same = {"task_id": task_id, "state": task.record["state"], "attempt": task.record["attempt"]}
        return {**same, "text": "", "offset": 0, "size": 0, "ended": task.state.final}

    def items(self, request: Request, task_id: str) -> Record:
        query = request.query or {}
        run = None if query.get("run") is None else int(query["run"])
        after, wait, limit = (
            int(query.get("after", 0)),
            float(query.get("wait", 0)),
            int(query.get("limit", 1000)),
        )
        task, changed = self.service.task(task_id), self.service.changed
        with changed:
            changed.wait_for(
                lambda: task.state.final or self.closed() or task.stream.has_new(after, run), wait
            )
            page = task.stream.page(after, run, limit, ended=task.state.final)
            return {"task_id": task_id, "state": task.record["state"], **page}


_ROUTES = [
    ("GET", "/v1/whoami", "whoami"),
    ("GET", "/health", "health"),
    ("GET", "/version", "health"),
    ("POST", "/v1/functions", "register"),
    ("GET", "/v1/functions", "functions"),
    ("GET", "/v1/functions/([^/]+)", "function"),
    ("DELETE", "/v1/functions/([^/]+)", "function"),
    ("GET", "/v1/endpoints", "endpoints"),
    ("GET", "/v1/endpoints/([^/]+)", "endpoint"),
    ("POST", "/v1/tasks", "submit"),
    ("GET", "/v1/tasks", "tasks"),
    ("POST", "/v1/cancellations", "cancel_tasks"),
    ("GET", "/v1/tasks/([^/]+)", "task"),
    ("POST", "/v1/tasks/([^/]+)/cancel", "cancel"),
    ("GET", "/v1/tasks/([^/]+)/log", "log"),
    ("GET", "/v1/tasks/([^/]+)/items", "items"),
    ("GET", "/v1/tasks/([^/]+)/result", "result"),
    ("GET", "/v1/groups/([^/]+)", "group"),
    ("POST", "/v1/groups/([^/]+)/cancel", "cancel_group"),
    ("GET", "/v1/groups/([^/]+)/results", "results"),
]


def _cancel(service: MemoryService, tasks: list[Task], started: bool) -> Record:
    """Cancel tasks; without ``started``, those that run or that an idle worker is about to take continue."""
    with service.changed:
        if not started:
            idle = service.workers - sum(task.state is TaskState.RUNNING for task in service.tasks.values())
            queued = [task for task in tasks if task.state is TaskState.QUEUED]
            tasks = queued[max(0, idle) :]
        return {"cancelled": sum(service.cancel(task) for task in tasks)}


def _page(request: Request, records: list[Record]) -> Record:
    query = request.query or {}
    start, limit = int(query.get("cursor") or 0), int(query.get("limit") or 100)
    end = start + limit
    return {"items": records[start:end], "next": str(end) if end < len(records) else None}


def _without_data(record: Record) -> Record:
    return {key: value for key, value in record.items() if key != "data"}
