"""The service's API as Python methods: one per route, and the few steps that people take most."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from ..protocol import names, parcel
from ..protocol.errors import Conflict
from ..protocol.limits import MAX_WAIT
from ..serialization.codec import FunctionBody, dump_call, dump_function
from .account import find_account
from .options import Options
from .outcome import read_outcome
from .routes import ElasticRoutes, EndpointRoutes, FunctionRoutes, Record, Routes, ServiceRoutes
from .streams import read_stream
from .transport import PATIENCE, HttpTransport, Request, Transport

#: Longest name, source and description that the service keeps (characters).
MAX_NAME = 256
MAX_SOURCE = 256 * 1024
MAX_DESCRIPTION = 4096


class TaskRoutes(Routes):
    """Tasks and their groups."""

    def submit(
        self,
        function_id: str,
        endpoint_id: str,
        payloads: Sequence[bytes],
        *,
        group_id: str | None = None,
        options: Options | None = None,
        given_up: threading.Event | None = None,
    ) -> Record:
        """Send 1 to 10,000 calls of a function, their arguments made by ``umbel.serialize.dump_call``.

        Returns ``group_id`` and ``task_ids``, in the order of ``payloads``: the tasks are accepted and will
        be run. Raises NotFound, TooLarge, TooMany, ServiceUnavailable (then it is not known whether they
        were). Once ``given_up`` is set, it is not tried again.
        """
        body: Record = {"function_id": function_id, "endpoint_id": endpoint_id}
        if group_id is not None:
            body["group_id"] = group_id
        asked = options.to_json() if options is not None else {}
        if asked:
            body["options"] = asked
        request = Request(
            "POST", "/v1/tasks", body=body, blobs=payloads, key=names.new_id(), given_up=given_up
        )
        return dict(self.transport.send(request))

    def tasks(self, limit: int | None = None, **filters: Any) -> Iterator[Record]:
        """Yield tasks.

        ``filters``: state, function_id, endpoint_id, group_id, since, until (seconds since 1970).
        """
        return self._pages("/v1/tasks", filters, limit)

    def get_task(self, task_id: str, patience: float | None = None) -> Record:
        """Return one task: its state, attempt, times, node, code, options. Raises NotFound."""
        path = f"/v1/tasks/{quote(task_id, safe='')}"
        return dict(self.transport.send(Request("GET", path, patience=patience)))

    def cancel_task(self, task_id: str, patience: float | None = None) -> Record:
        """End a task wherever it is; return it. One that has ended stays as it is. Raises NotFound."""
        path = f"/v1/tasks/{quote(task_id, safe='')}/cancel"
        return dict(self.transport.send(Request("POST", path, repeatable=True, patience=patience)))

    def get_task_result(self, task_id: str) -> Record:
        """Return how a task ended, its result still serialized.

        Raises NotFound, Conflict (``RESULT_NOT_READY``).
        """
        return dict(self._get(f"/v1/tasks/{quote(task_id, safe='')}/result"))

    def get_log(
        self, task_id: str, offset: int = 0, *, attempt: int | None = None, wait: float = 0.0
    ) -> Record:
        """Return what a task wrote to standard output and error from byte ``offset`` on.

        Waits up to ``wait`` seconds (30 at most) until there is something. The record: ``text``; ``offset``
        and ``attempt`` to ask with next; ``size``: bytes written so far; ``ended``: nothing will follow. Of
        another try than ``attempt`` all is returned. Raises NotFound.
        """
        wait = min(wait, MAX_WAIT)
        query = {"offset": offset, "attempt": attempt, "wait": f"{wait:g}"}
        path = f"/v1/tasks/{quote(task_id, safe='')}/log"
        return dict(self.transport.send(Request("GET", path, query, wait=wait)))

    def follow_log(self, task_id: str) -> Iterator[Record]:
        """Yield what a task writes, as ``get_log`` returns it, until the task has ended. Raises NotFound."""
        offset, attempt = 0, None
        while True:
            record = self.get_log(task_id, offset, attempt=attempt, wait=MAX_WAIT)
            if record["text"] or record["ended"]:
                yield record
            if record["ended"]:
                return
            offset, attempt = record["offset"], record["attempt"]

    def get_items(self, task_id: str, after: int = 0, *, run: int | None = None, wait: float = 0.0) -> Record:
        """Return what a task yielded, without the first ``after`` items; 1,000 and some MiB at most.

        Waits up to ``wait`` seconds (30 at most) until there is something. The record: ``items``, serialized,
        in base64; ``cursor`` and ``run`` to ask with next; ``total``: how many there are, None before the
        call has ended; ``ended``: nothing will follow. Of another start of the task than ``run`` all is
        returned. Raises NotFound.
        """
        wait = min(wait, MAX_WAIT)
        query = {"after": after, "run": run, "wait": f"{wait:g}"}
        path = f"/v1/tasks/{quote(task_id, safe='')}/items"
        return dict(self.transport.send(Request("GET", path, query, wait=wait)))

    def get_group(self, group_id: str) -> Record:
        """Return a group: its total, its number of tasks by state, and whether all are finished."""
        return dict(self._get(f"/v1/groups/{quote(group_id, safe='')}"))

    def cancel_group(self, group_id: str) -> int:
        """End all tasks of a group; return how many were ended by this."""
        path = f"/v1/groups/{quote(group_id, safe='')}/cancel"
        return int(self.transport.send(Request("POST", path, repeatable=True))["cancelled"])

    def group_results(self, group_id: str, after: int = 0, wait: float = 0.0, limit: int = 1000) -> Record:
        """Return a group's results with completion numbers above ``after``.

        Waits up to ``wait`` seconds (30 at most) until there is one. ``result`` and ``exception`` of each are
        bytes, or base64 where the service knows no parcels.
        """
        wait = min(wait, MAX_WAIT)
        query = {"after": after, "wait": f"{wait:g}", "limit": limit}
        path = f"/v1/groups/{quote(group_id, safe='')}/results"
        return dict(self.transport.send(Request("GET", path, query, wait=wait, accept=parcel.RESULTS_TYPE)))


class Client(ServiceRoutes, FunctionRoutes, EndpointRoutes, ElasticRoutes, TaskRoutes):
    """A connection to the service. Thread-safe; close it, or use it in a ``with`` block.

    ``url``, ``token``: default as ``umbel login`` or ``make up`` left them, or UMBEL_API_URL and UMBEL_TOKEN.
    ``patience``: seconds for which the service may be out of reach before a request fails (10 at most until
    it has answered for the first time). Endpoints are given by name or id.

    Every method raises ServiceError: Unauthorized, NotFound, ServiceUnavailable ...
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        home: str | os.PathLike[str] | None = None,
        patience: float = PATIENCE,
        transport: Transport | None = None,
    ):
        self.transport = transport or HttpTransport(find_account(url, token, home), patience)
        self._function_ids: dict[str, str] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; requests on their way fail."""
        self.transport.close()

    def register_function(self, fn: Callable[..., Any], *, description: str | None = None) -> str:
        """Register a function; return its id. Equal code is registered once and has one id.

        Raises SerializeError when the function cannot be turned into bytes.
        """
        body = dump_function(fn)
        return self.function_id(body if description is None else replace(body, description=description))

    def function_id(self, function: FunctionBody) -> str:
        """Return the id of a serialized function, registering it if this client has not done so yet."""
        digest = hashlib.sha256(function.data).hexdigest()
        with self._lock:
            known = self._function_ids.get(digest)
        if known is None:
            # the text is for people only, so one that is too long may stay here
            source = function.source if len(function.source or "") <= MAX_SOURCE else None
            description = function.description[:MAX_DESCRIPTION]
            known = str(
                self.register_body(function.name[:MAX_NAME], function.data, source, description)["id"]
            )
            with self._lock:
                self._function_ids[digest] = known
        return known

    def forget_function(self, function_id: str) -> None:
        """Forget that a function is registered, because the service says that it is not."""
        with self._lock:
            self._function_ids = {k: v for k, v in self._function_ids.items() if v != function_id}

    def run(self, *args: Any, function_id: str, endpoint_id: str, **kwargs: Any) -> str:
        """Run a registered function with these arguments at an endpoint; return the task's id.

        Raises SerializeError, NotFound.
        """
        return str(self.submit(function_id, endpoint_id, [dump_call(args, kwargs)])["task_ids"][0])

    def get_result(self, task_id: str, *, timeout: float | None = 0.0) -> Any:
        """Return what a task returned, or raise what it raised.

        Waits up to ``timeout`` seconds for the task to end (None: as long as it takes), then raises Conflict
        (``RESULT_NOT_READY``). Raises the function's own exception where it can be rebuilt safely, else
        TaskError; see ``umbel.executor``.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        group_id, after = None, 0
        while True:
            try:
                return read_outcome(self.get_task_result(task_id))
            except Conflict as error:
                left = MAX_WAIT if deadline is None else deadline - time.monotonic()
                if error.code != "RESULT_NOT_READY" or left <= 0:
                    raise
            if group_id is None:
                group_id = self.get_task(task_id)["group_id"]
            # only its news matter here: whatever ended, the task itself is asked again
            after = self.group_results(group_id, after, left)["cursor"]

    def stream(self, task_id: str, *, timeout: float | None = None) -> Iterator[Any]:
        """Yield what a task yields, as it comes, from the first item on; then raise what it raised, if so.

        For functions that are generators; see ``UmbelFuture.stream``, whose errors these are.
        """
        yield from read_stream(self, task_id, timeout)
        self.get_result(task_id, timeout=timeout)
