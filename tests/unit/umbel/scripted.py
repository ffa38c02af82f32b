"""A service that does nothing by itself: the test accepts submissions and finishes tasks."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from typing import Any

from umbel import Client, Executor
from umbel.api.transport import Request, TransportClosed
from umbel.protocol import names
from umbel.protocol.errors import NotFound, ServiceError
from umbel.serialize import dump_result


class ScriptedService:
    """What was asked of it, and what it will answer.

    ``hold``: submissions wait for ``release``; ``refuse``: the error of a submission or None;
    ``results_fail``: errors of the next polls; ``epoch``: that of the answers to polls; ``echo``: finish
    every task at once, before its submission is answered.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.submissions: list[Request] = []
        self.polls: list[Request] = []
        self.cancelled: list[str] = []
        self.functions: list[str] = []
        self.held = False
        self.echo = False
        self.refuse: Callable[[Request], ServiceError | None] = lambda _: None
        self.results_fail: list[ServiceError] = []
        self.rows: list[dict[str, Any]] = []
        self.task_ids: list[str] = []
        self.exists = False
        self.epoch: str | None = None

    def executor(self, **options: Any) -> Executor:
        return Executor("box", client=Client(transport=ScriptedTransport(self)), **options)

    def hold(self) -> None:
        with self.changed:
            self.held = True

    def release(self) -> None:
        with self.changed:
            self.held = False
            self.changed.notify_all()

    def finish(self, task_id: str, value: Any = None, **fields: Any) -> None:
        """End a task, successfully unless ``fields`` say otherwise."""
        row: dict[str, Any] = {
            "task_id": task_id,
            "completion": len(self.rows) + 1,
            "state": "succeeded",
            "code": None,
            "message": None,
            "result": base64.b64encode(dump_result(value)).decode(),
            "exception": None,
        }
        with self.changed:
            self.rows.append({**row, **fields})
            self.changed.notify_all()

    def finish_all(self) -> None:
        for task_id in self.task_ids[len(self.rows) :]:
            self.finish(task_id)

    def batches(self) -> list[int]:
        return [len(request.blobs or ()) for request in self.submissions]


class ScriptedTransport:
    """The client's way to a ``ScriptedService``."""

    def __init__(self, service: ScriptedService):
        self.service = service
        self.closed = False

    def clone(self) -> ScriptedTransport:
        return ScriptedTransport(self.service)

    def close(self) -> None:
        self.closed = True
        with self.service.changed:
            self.service.changed.notify_all()

    def send(self, request: Request) -> Any:
        if self.closed:
            raise TransportClosed()
        method, _, last = request.path.rpartition("/")
        if request.path == "/v1/functions":
            self.service.functions.append(request.body["name"])
            return {"id": f"f{len(self.service.functions)}"}
        if (request.method, last) == ("POST", "tasks"):
            return self._submit(request)
        if last == "results":
            return self._results(request)
        if (request.method, last) == ("GET", "tasks"):
            with self.service.changed:
                return {"items": [{"id": task_id} for task_id in self.service.task_ids], "next": None}
        if request.path == "/v1/cancellations":
            self.service.cancelled += request.body["task_ids"]
            return {"cancelled": len(request.body["task_ids"])}
        if last == "cancel":
            self.service.cancelled.append(request.path.split("/")[3])
            return {"state": "cancelled", "cancelled": 1}
        raise NotFound(request.path)

    def _submit(self, request: Request) -> Any:
        service = self.service
        with service.changed:
            service.submissions.append(request)
            service.changed.notify_all()
            service.changed.wait_for(lambda: not service.held or self.closed)
        error = service.refuse(request)
        if error is not None:
            raise error
        ids = names.new_task_ids(len(request.blobs or ()), 1)
        service.task_ids += ids
        service.exists = True
        if service.echo:
            for number, task_id in enumerate(ids):
                service.finish(task_id, number)
        return {"group_id": request.body["group_id"], "task_ids": ids}

    def _results(self, request: Request) -> Any:
        service = self.service
        query = request.query or {}
        with service.changed:
            service.polls.append(request)
            if service.results_fail:
                raise service.results_fail.pop(0)
            if not service.exists:
                raise NotFound("there is no such group", code="GROUP_NOT_FOUND")
            after, wait = int(query["after"]), float(query["wait"])
            asked = query["epoch"]

            def news() -> bool:
                return len(service.rows) > after or self.closed or asked not in (None, service.epoch)

            service.changed.wait_for(news, wait)
            if self.closed:
                raise TransportClosed()
            if asked not in (None, service.epoch):
                after = 0
            rows = [dict(row) for row in service.rows[after : after + int(query["limit"])]]
        page = {"results": rows, "cursor": after + len(rows), "live": 1}
        return page if service.epoch is None else {**page, "epoch": service.epoch}
