"""One method per route of the API for tasks and their groups; ``Client`` joins all routes."""

# One concept: one method for each route of tasks and their groups; most lines are their documentation
from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from ..protocol import names, parcel
from ..protocol.errors import TooLarge
from ..protocol.limits import MAX_PAYLOAD_BYTES, MAX_WAIT
from ..serialization.compression import describe_limit
from .options import Options
from .routes import Record, Routes
from .transport import Request


class TaskRoutes(Routes):
    """Tasks and their groups."""

    def submit(
        self,
        function_id: str | Sequence[tuple[str, int]],
        endpoint_id: str,
        payloads: Sequence[bytes],
        *,
        group_id: str | None = None,
        options: Options | None = None,
        key: str | None = None,
        patience: float | None = None,
        given_up: threading.Event | None = None,
    ) -> Record:
        """Submit calls of registered functions. When this returns, the tasks are stored and will run.

        Args:
            function_id: Id of the function, or for calls of several functions a list of up to 256 pairs: id
                of a function, and how many of the following payloads are calls of it.
            endpoint_id: Id or name of the endpoint.
            payloads: Serialized arguments (``umbel.serialize.dump_call``), one per call: 1 to 10,000 calls
                of at most 10 MiB each, about 12 MiB in all.
            group_id: Group that the tasks join; it is created if it does not exist. Default: a new group.
            options: Options of all these calls. Default: the service's.
            key: Idempotency key: a repeated submission with the same key, within a day, returns the first
                answer and starts nothing. Default: a new one.
            patience: Seconds for which the service may be unreachable or reject the calls. Default: the
                client's.
            given_up: Once this event is set, a failed request is not repeated.

        Returns:
            A record with ``group_id`` and ``task_ids``, in the order of ``payloads``.

        Raises:
            NotFound: The user has no such function or endpoint. Then none of the calls is accepted.
            BadRequest: A number of calls or an option is not valid.
            Conflict: ``cores`` is larger than the largest node of the endpoint.
            TooLarge: A payload or the whole request is too large.
            TooMany: Too many tasks are unfinished (``QUEUE_FULL``).
            ServiceUnavailable: The service does not answer; it is unknown whether the calls were accepted.
        """
        largest = max(map(len, payloads), default=0)
        if largest > MAX_PAYLOAD_BYTES:  # the service would reject them when it has received them
            raise TooLarge(
                f"the arguments of a call have {largest:,} bytes, {describe_limit(largest)}: pass the path "
                "of a file or a reference instead",
                details={"size": largest, "limit": MAX_PAYLOAD_BYTES},
            )
        body: Record = {"endpoint_id": endpoint_id}
        functions = [(function_id, len(payloads))] if isinstance(function_id, str) else list(function_id)
        if len(functions) == 1:
            body["function_id"] = functions[0][0]
        else:
            body["functions"] = [{"function_id": id, "calls": calls} for id, calls in functions]
        if group_id is not None:
            body["group_id"] = group_id
        asked = options.to_json() if options is not None else {}
        if asked:
            body["options"] = asked
        request = Request(
            "POST",
            "/v1/tasks",
            body=body,
            blobs=payloads,
            key=key or names.new_id(),
            patience=patience,
            given_up=given_up,
        )
        return dict(self.transport.send(request))

    def tasks(self, limit: int | None = None, **filters: Any) -> Iterator[Record]:
        """Yield the user's tasks, newest first.

        Args:
            limit: Maximum number of records. Default: all.
            **filters: Any of ``state`` (such as ``"running"``), ``function_id``, ``endpoint_id`` (id or
                name), ``group_id``, ``since`` and ``until`` (submitted then or later, and earlier than that;
                seconds since 1970).

        Yields:
            Records as ``get_task`` returns them.
        """
        return self._pages("/v1/tasks", filters, limit)

    def get_task(self, task_id: str, patience: float | None = None) -> Record:
        """Return one task.

        Args:
            task_id: Id of the task.
            patience: Seconds for which the service may be unreachable. Default: the client's.

        Returns:
            A record with ``id``, ``state``, ``group_id``, ``function_id``, ``function_name``,
            ``endpoint_id``, ``node``, ``attempt`` (how often it was sent to a worker), ``retried`` (how
            often it raised and ran again), ``priority``, ``tags``, ``options`` (those that differ from the
            defaults), ``created``, ``expires``, ``dispatched``, ``started``, ``finished`` (seconds since
            1970, or None), ``queued`` and ``wall`` (seconds from submission to start, and of run time),
            ``code`` and ``message`` (why it failed, or None), ``completion`` (its number among the finished
            tasks of its group), ``result_size`` (bytes) and ``usage``: ``host``, ``pid``, ``slot`` and,
            unless the call was very short, ``cpu``, ``user``, ``system`` (seconds), ``max_rss``, ``read``
            and ``written`` (bytes).

        Raises:
            NotFound: The user has no such task (``TASK_NOT_FOUND``).
        """
        path = f"/v1/tasks/{quote(task_id, safe='')}"
        return dict(self.transport.send(Request("GET", path, patience=patience)))

    def cancel_task(self, task_id: str, patience: float | None = None) -> Record:
        """Cancel a task, waiting or running. A finished task does not change.

        Args:
            task_id: Id of the task.
            patience: Seconds for which the service may be unreachable. Default: the client's.

        Returns:
            The task, as ``get_task`` returns it.

        Raises:
            NotFound: The user has no such task (``TASK_NOT_FOUND``).
        """
        path = f"/v1/tasks/{quote(task_id, safe='')}/cancel"
        return dict(self.transport.send(Request("POST", path, repeatable=True, patience=patience)))

    def cancel_tasks(self, task_ids: Sequence[str], *, started: bool = True) -> int:
        """Cancel several tasks in one request. Finished tasks do not change.

        Args:
            task_ids: Ids of up to 10,000 tasks. Ids of tasks that do not exist are ignored.
            started: Cancel running tasks, too. False: tasks that run, or may have just started, continue.

        Returns:
            Number of tasks that this call cancelled.
        """
        body = {"task_ids": list(task_ids), "started": started}
        return int(
            self.transport.send(Request("POST", "/v1/cancellations", body=body, repeatable=True))["cancelled"]
        )

    def get_task_result(self, task_id: str, patience: float | None = None) -> Record:
        """Return the outcome of a task, its result still serialized. ``get_result`` returns the value.

        Args:
            task_id: Id of the task.
            patience: Seconds after which the request fails. Default: the client's patience.

        Returns:
            A record with ``task_id``, ``state``, ``code``, ``message``, ``completion``, ``node``,
            ``queued``, ``started``, ``finished``, ``wall`` and ``usage`` as in ``get_task``, and ``result``
            and ``exception`` (base64, or None).

        Raises:
            NotFound: The user has no such task (``TASK_NOT_FOUND``).
            Conflict: The task has not finished (``RESULT_NOT_READY``).
        """
        path = f"/v1/tasks/{quote(task_id, safe='')}/result"
        return dict(self.transport.send(Request("GET", path, patience=patience)))

    def get_log(
        self, task_id: str, offset: int = 0, *, attempt: int | None = None, wait: float = 0.0
    ) -> Record:
        """Return what a task has written to standard output and standard error.

        Args:
            task_id: Id of the task.
            offset: First byte to return; ``offset`` of the previous answer, or 0.
            attempt: The attempt that ``offset`` counts in; ``attempt`` of the previous answer. If the task
                has since been started again, all output of the new attempt is returned.
            wait: How long to wait for output if there is none yet, seconds, at most 30.

        Returns:
            A record with ``task_id``, ``state``, ``text``, ``offset`` and ``attempt`` (for the next
            request), ``size`` (bytes written so far) and ``ended`` (True: nothing will follow).

        Raises:
            NotFound: The user has no such task (``TASK_NOT_FOUND``).
        """
        wait = min(wait, MAX_WAIT)
        query = {"offset": offset, "attempt": attempt, "wait": f"{wait:g}"}
        path = f"/v1/tasks/{quote(task_id, safe='')}/log"
        return dict(self.transport.send(Request("GET", path, query, wait=wait)))

    def follow_log(self, task_id: str) -> Iterator[Record]:
        """Yield what a task writes until it has finished.

        Args:
            task_id: Id of the task.

        Yields:
            Records as ``get_log`` returns them. A different ``attempt`` means that the task was started
            again.

        Raises:
            NotFound: The user has no such task (``TASK_NOT_FOUND``).
        """
        offset, attempt = 0, None
        while True:
            record = self.get_log(task_id, offset, attempt=attempt, wait=MAX_WAIT)
            if record["text"] or record["ended"]:
                yield record
            if record["ended"]:
                return
            offset, attempt = record["offset"], record["attempt"]

    def get_items(
        self,
        task_id: str,
        after: int = 0,
        *,
        run: int | None = None,
        wait: float = 0.0,
        patience: float | None = None,
    ) -> Record:
        """Return items that a task has yielded, still serialized. ``stream`` yields the values.

        Args:
            task_id: Id of the task.
            after: Number of items to skip; ``cursor`` of the previous answer, or 0.
            run: The start of the task that ``after`` counts in; ``run`` of the previous answer. If another
                start has yielded since, its items are returned from the first.
            wait: How long to wait for an item if there is none yet, seconds, at most 30.
            patience: Seconds after which the request fails. Default: the client's patience.

        Returns:
            A record with ``task_id``, ``state``, ``items`` (base64; at most 1,000 items and about 6 MiB),
            ``cursor`` and ``run`` (for the next request), ``total`` (number of all items, or None while it
            is not known) and ``ended`` (True: nothing will follow; if ``cursor`` is less than ``total``,
            items were lost).

        Raises:
            NotFound: The user has no such task (``TASK_NOT_FOUND``).
        """
        wait = min(wait, MAX_WAIT)
        query = {"after": after, "run": run, "wait": f"{wait:g}"}
        path = f"/v1/tasks/{quote(task_id, safe='')}/items"
        return dict(self.transport.send(Request("GET", path, query, wait=wait, patience=patience)))

    def get_group(self, group_id: str) -> Record:
        """Return a group.

        Args:
            group_id: Id of the group.

        Returns:
            A record with ``id``, ``created`` (seconds since 1970), ``total`` (number of tasks), ``states``
            (number of tasks by state) and ``finished`` (True when all tasks have finished).

        Raises:
            NotFound: The user has no such group (``GROUP_NOT_FOUND``).
        """
        return dict(self._get(f"/v1/groups/{quote(group_id, safe='')}"))

    def cancel_group(self, group_id: str, *, started: bool = True) -> int:
        """Cancel all unfinished tasks of a group.

        Args:
            group_id: Id of the group.
            started: Cancel running tasks, too. False: tasks that run, or may have just started, continue.

        Returns:
            Number of tasks that this call cancelled.

        Raises:
            NotFound: The user has no such group (``GROUP_NOT_FOUND``).
        """
        path = f"/v1/groups/{quote(group_id, safe='')}/cancel"
        query = None if started else {"started": "false"}
        return int(self.transport.send(Request("POST", path, query, repeatable=True))["cancelled"])

    def group_results(
        self,
        group_id: str,
        after: int = 0,
        wait: float = 0.0,
        limit: int = 1000,
        *,
        epoch: str | None = None,
        patience: float | None = None,
    ) -> Record:
        """Return results of a group in the order in which its tasks finished.

        Args:
            group_id: Id of the group.
            after: Completion number after which to begin; ``cursor`` of the previous answer, or 0.
            wait: How long to wait for a result if there is none yet, seconds, at most 30.
            limit: Maximum number of results, at most 1,000. An answer also ends at about 8 MiB.
            epoch: The epoch in which ``after`` counts; ``epoch`` of the previous answer. If the service's
                database was restored to an earlier state since, the answer begins with the first result.
            patience: Seconds after which the request fails. Default: the client's patience.

        Returns:
            A record with ``results``, ``cursor`` and ``epoch`` (for the next request) and ``live`` (0 when
            the group has no unfinished task). Each result is a record as ``get_task_result`` returns it; its
            ``result`` and ``exception`` are bytes, or base64 strings if the service answers in JSON.

        Raises:
            NotFound: The user has no such group (``GROUP_NOT_FOUND``).
        """
        wait = min(wait, MAX_WAIT)
        query = {"after": after, "wait": f"{wait:g}", "limit": limit, "epoch": epoch}
        path = f"/v1/groups/{quote(group_id, safe='')}/results"
        request = Request("GET", path, query, wait=wait, accept=parcel.RESULTS_TYPE, patience=patience)
        return dict(self.transport.send(request))
