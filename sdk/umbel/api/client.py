"""``Client``: the service's API as Python methods, one per route, and a few frequent steps."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ..protocol.errors import Conflict, ServiceUnavailable, TooMany
from ..protocol.limits import MAX_WAIT
from ..serialization.codec import FunctionBody, dump_call, dump_function
from ..system.forks import after_fork
from . import nested
from .elastic_routes import ElasticRoutes
from .outcome import read_outcome
from .routes import EndpointRoutes, FunctionRoutes, ServiceRoutes
from .streams import MARGIN, read_stream
from .task_routes import TaskRoutes
from .transport import PATIENCE, HttpTransport, Transport

#: Longest name, source and description that the service stores (characters).
MAX_NAME = 256
MAX_SOURCE = 256 * 1024
MAX_DESCRIPTION = 4096


class Client(ServiceRoutes, FunctionRoutes, EndpointRoutes, ElasticRoutes, TaskRoutes):
    """A connection to the service. Thread-safe; a forked child that uses it gets connections of its own.

    Close it, or use it in a ``with`` block::

        with Client() as client:
            function_id = client.register_function(pow)
            task_id = client.run(2, 10, function_id=function_id, endpoint_id="local")
            print(client.get_result(task_id, timeout=60))

    Every method that sends a request can raise a ``ServiceError``: ``Unauthorized`` when the token is not
    valid, ``ServiceUnavailable`` when the service cannot be reached, ``TooMany`` when the service rejects
    more requests for now. Requests that may safely be repeated are repeated until ``patience`` is over.

    Args:
        url: Address of the service. Default: ``UMBEL_API_URL``, else the one that ``umbel login`` or
            ``make up`` stored.
        token: Bearer token. Default: ``UMBEL_TOKEN``, else the one stored for this address, which is read
            again when there is none yet or the service rejects it.
        home: Directory of the stored address and token. Default: ``UMBEL_HOME``, else ``~/.umbel``.
        patience: Seconds for which the service may be unreachable before a request fails. Until the service
            has answered for the first time, at most 10.
        transport: How requests reach the service, in place of ``url``, ``token``, ``home`` and ``patience``;
            used by ``umbel.testing``.

    Raises:
        Unauthorized: No address of a service is known.
        BadRequest: The address or the stored file is not valid.
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
        if transport is None:
            find = functools.partial(nested.find, url, token, home)
            transport = HttpTransport(find(), patience, find=find)
        self.transport = transport
        self._function_ids: dict[str, str] = {}
        self._lock = threading.Lock()
        after_fork(self._replace_lock)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _replace_lock(self) -> None:
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections. Requests in progress fail with ServiceUnavailable."""
        self.transport.close()

    def register_function(self, fn: Callable[..., Any], *, description: str | None = None) -> str:
        """Register a function. Equal code is registered once and has one id.

        Args:
            fn: A function or any other callable that can be pickled.
            description: Description to show. Default: the first line of the docstring.

        Returns:
            Id of the function.

        Raises:
            SerializeError: The function or something that it refers to cannot be pickled.
            TypeError: ``fn`` is not callable.
            TooLarge: The serialized function is larger than about 9 MiB.
        """
        body = dump_function(fn)
        return self.function_id(body if description is None else replace(body, description=description))

    def function_id(self, function: FunctionBody, patience: float | None = None) -> str:
        """Return the id of a serialized function. Registers it if this client has not done so yet.

        Args:
            function: What ``umbel.serialize.dump_function`` returns.
            patience: Seconds after which a registration fails. Default: the client's patience.

        Returns:
            The id, a string.
        """
        digest = hashlib.sha256(function.data).hexdigest()
        with self._lock:
            known = self._function_ids.get(digest)
        if known is None:
            # the source is only shown to people, so a long one may be left out
            source = function.source if len(function.source or "") <= MAX_SOURCE else None
            description = function.description[:MAX_DESCRIPTION]
            known = str(
                self.register_body(
                    function.name[:MAX_NAME], function.data, source, description, patience=patience
                )["id"]
            )
            with self._lock:
                self._function_ids[digest] = known
        return known

    def forget_function(self, function_id: str) -> None:
        """Discard a cached function id, because the service no longer has the function.

        Args:
            function_id: Id of the function. An id that is not cached is ignored.
        """
        with self._lock:
            self._function_ids = {k: v for k, v in self._function_ids.items() if v != function_id}

    def run(self, *args: Any, function_id: str, endpoint_id: str, **kwargs: Any) -> str:
        """Submit one call of a registered function.

        Args:
            *args: Positional arguments of the call.
            function_id: Id of the function, as ``register_function`` returns it.
            endpoint_id: Id or name of the endpoint.
            **kwargs: Keyword arguments of the call.

        Returns:
            Id of the task.

        Raises:
            SerializeError: An argument cannot be pickled.
            ServiceError: As ``submit`` raises it.
        """
        return str(self.submit(function_id, endpoint_id, [dump_call(args, kwargs)])["task_ids"][0])

    def get_result(self, task_id: str, *, timeout: float | None = 0.0) -> Any:
        """Return the result of a task, or raise its exception.

        Args:
            task_id: Id of the task.
            timeout: How long to wait for the task to finish, seconds. Default: do not wait. None: wait
                indefinitely, also while the endpoint is offline.

        Returns:
            What the function returned.

        Raises:
            Conflict: The task has not finished in time (``RESULT_NOT_READY``).
            TaskError: The task failed or expired; ``code`` says why. If the function raised an exception
                whose class can be rebuilt safely here, that exception is raised instead.
            concurrent.futures.CancelledError: The task was cancelled.
            DeserializeError: The result cannot be loaded here.
            NotFound: The user has no such task (``TASK_NOT_FOUND``).
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        group_id, after, not_ready = None, 0, None
        while True:
            # a service that does not answer may not prolong the wait, except for an answer right now
            patience = None if not timeout or deadline is None else max(0.05, deadline - time.monotonic())
            try:
                return read_outcome(self.get_task_result(task_id, patience))
            except Conflict as error:
                not_ready = error
                left = MAX_WAIT if deadline is None else deadline - time.monotonic()
                if error.code != "RESULT_NOT_READY" or left <= 0:
                    raise
            patience = None if deadline is None else left + MARGIN
            try:
                if group_id is None:
                    group_id = self.get_task(task_id, patience)["group_id"]
                # used only to wait: whichever task of the group finished, this one is requested again
                after = self.group_results(group_id, after, left, patience=patience)["cursor"]
            except TooMany as error:  # no place for the poll: the task goes on
                time.sleep(min(left, float(error.details.get("retry_after") or 1.0)))
            except ServiceUnavailable:
                if deadline is not None and time.monotonic() >= deadline:
                    raise not_ready from None
                raise

    def stream(self, task_id: str, *, timeout: float | None = None) -> Iterator[Any]:
        """Yield what a task yields, from the first item on, while it runs or after it has finished.

        For functions that are generators. If the task fails, its exception is raised after the last item.

        Args:
            task_id: Id of the task.
            timeout: How long to wait for each item, seconds. Default: wait indefinitely.

        Yields:
            The items, in order.

        Raises:
            TimeoutError: No item has arrived for ``timeout`` seconds.
            StreamRestarted: The task was started again after items were read here.
            TaskError: The task failed; with the code ``STREAM_INCOMPLETE``, items were lost.
            DeserializeError: An item cannot be loaded here.
            NotFound: The user has no such task (``TASK_NOT_FOUND``).
        """
        yield from read_stream(self, task_id, timeout)
        self.get_result(task_id, timeout=timeout)
