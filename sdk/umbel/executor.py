"""``Executor``: a ``concurrent.futures.Executor`` whose calls run at an endpoint."""

# One concept: the executor. Most lines are docstrings, which are the reference of its methods and options.

from __future__ import annotations

import copy
import functools
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor as BaseExecutor
from dataclasses import replace
from typing import Any

from .api.client import Client
from .api.options import Options
from .environment import attach, environment_of, limits_of
from .futures import UmbelFuture
from .protocol import names
from .protocol.errors import TooLarge, UmbelError
from .protocol.limits import MAX_CALLS_PER_SUBMISSION, MAX_PAYLOAD_BYTES
from .protocol.units import read_time
from .serialization.codec import FunctionBody, dump_call, function_name
from .serialization.compression import describe_limit
from .submit.callables import (
    OPTION_NAMES,
    Kind,
    check_option_names,
    future_as_argument,
    kind_of,
    run_coroutine,
)
from .submit.calls import Route
from .submit.mapping import ChunkResults, MapResults, chunk_limits, chunks, run_chunk
from .submit.session import FUTURE_PATIENCE, Session


class Executor(BaseExecutor):
    """A ``concurrent.futures.Executor`` whose calls run at an endpoint. Thread-safe.

    >>> with Executor("local") as executor:
    ...     print(executor.submit(pow, 2, 10).result(timeout=60))
    1024

    A call is submitted at once; calls that arrive while a request is in progress go together in the next
    request. Accepted calls continue when this program ends, and ``reload`` returns their futures in another
    program. When the interpreter exits, it waits for unsent calls, not for results: up to ``submit_timeout``,
    else the client's ``patience``, or until Ctrl-C. Calls that the service has not accepted by then are kept
    in ``UMBEL_HOME``; the next program of the same user, or ``umbel flush``, submits them. The exit status
    is then 120.

    Args:
        endpoint: Name or id of the endpoint.
        group_id: Task group to join, a lower-case UUID. Default: a new group.
        client: A client to share. Default: a new ``Client()``, closed with the executor.
        batch_size: Maximum number of calls in one request, from 1 to 10,000.
        batch_interval: How long to collect calls before each request, seconds.
        submit_timeout: How long ``submit`` may block, and a call may wait for acceptance, while the service
            accepts no more calls, seconds. Then the call's future fails with TooMany or ServiceUnavailable.
            Default: indefinitely.
        timeout: Run time of a call, seconds. A longer call ends with the code ``TIMEOUT``. This and the
            arguments below are options of every call; ``Options`` has their bounds and defaults. Times may
            be strings such as ``"5min"``, sizes strings such as ``"2GiB"``.
        memory: Memory of a call, bytes.
        cpu: Processor time of a call, seconds.
        output: How much of a call's standard output and standard error is kept, bytes.
        expires: Time in the queue, seconds, after which a call that has not started expires. Default: never.
        retries: How often a call that raised an exception runs again.
        retry_on: The exceptions, classes or names, after which a call runs again. Default: all.
        priority: -100 to 100. Calls with a higher priority start first among the user's own.
        max_attempts: How often a call is started at most when workers are lost.
        tags: Labels to find tasks by.
        cores: Slots of one node that each call occupies.
        open_files: Files and sockets that a call may have open.
        isolation: ``"process"``: a new process for each call. Default: processes are used again.
        nested: True: calls may submit further calls while they run, if the endpoint allows it.

    Raises:
        ValueError: ``batch_size``, ``batch_interval``, ``submit_timeout``, ``group_id`` or an option is not
            valid.
        Unauthorized: No ``client`` is given, and no address of a service is known.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        group_id: str | None = None,
        client: Client | None = None,
        batch_size: int = MAX_CALLS_PER_SUBMISSION,
        batch_interval: float = 0.0,
        submit_timeout: float | None = None,
        timeout: float | str | None = None,
        memory: int | str | None = None,
        cpu: float | str | None = None,
        output: int | str | None = None,
        expires: float | str | None = None,
        retries: int | None = None,
        retry_on: Sequence[str | type[BaseException]] | None = None,
        priority: int | None = None,
        max_attempts: int | None = None,
        tags: Sequence[str] | None = None,
        cores: int | None = None,
        open_files: int | None = None,
        isolation: str | None = None,
        nested: bool | None = None,
    ):
        submit_timeout = read_time("submit_timeout", submit_timeout)
        _check(endpoint, batch_size, batch_interval, submit_timeout)
        if group_id is not None and not names.is_id(group_id):
            raise ValueError(f"group_id must be a lower-case UUID with dashes, got {group_id!r}")
        rest = retries, retry_on, priority, max_attempts, tags, cores, open_files, isolation, nested
        options = Options(timeout, memory, cpu, output, expires, *rest)
        self._own_group = group_id is None
        route = Route(
            endpoint, group_id or names.new_id(), options, batch_size, batch_interval, submit_timeout
        )
        self._session = Session(client or Client(), route, owns_client=client is None)
        self._options = options
        self._parent: Executor | None = None
        self._slots = 0
        # the threads of an executor that is garbage-collected without shutdown() must stop
        weakref.finalize(self, Session.close, self._session).atexit = False

    def options(self, **options: Any) -> Executor:
        """Return a view of this executor whose calls have other options.

        The view shares everything else: task group, connections, threads. It ends with this executor, and
        its ``shutdown`` shuts this executor down::

            nightly = executor.options(timeout="5min", tags=["night"])
            nightly.submit(pow, 2, 10)

        Args:
            **options: Options of the constructor, from ``timeout`` to ``nested``. The others are those of
                this executor.

        Returns:
            The view, an ``Executor``.

        Raises:
            TypeError: There is no option of this name.
            ValueError: An option is not valid.
        """
        view = copy.copy(self)
        view._options = replace(self._options, **options)
        view._parent = self
        return view

    @property
    def _max_workers(self) -> int:
        """Number of slots of the endpoint, which dask, joblib and others read to size their work."""
        if not self._slots:
            self._slots = _slots_of(self._session.client, self.endpoint)
        return self._slots or os.cpu_count() or 1

    @property
    def group_id(self) -> str:
        """Id of the task group of this executor's calls."""
        return self._session.route.group_id

    @property
    def endpoint(self) -> str:
        """Name or id of the endpoint, as passed to the constructor."""
        return self._session.route.endpoint

    def __repr__(self) -> str:
        return f"<umbel.Executor endpoint={self.endpoint!r} group={self.group_id}>"

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> UmbelFuture:
        """Call ``fn(*args, **kwargs)`` at the endpoint.

        Every failure of the call, also that of its submission, is the future's exception: SerializeError (the
        function or an argument cannot be pickled), TooLarge (more than 10 MiB of arguments), BadRequest (an
        option is not valid), NotFound (no such endpoint), ServiceUnavailable, TaskError, the function's own.

        Args:
            fn: A function or any other callable.
            *args: Positional arguments of the call.
            **kwargs: Keyword arguments of the call.

        Returns:
            The future of the call. Its ``result()`` waits indefinitely while the endpoint is offline, unless
            it has a timeout or the executor has ``expires``.

        Raises:
            RuntimeError: The executor is shut down, or was created before a fork.
            TooMany: Too many calls are unsent, and the service accepted none for ``submit_timeout`` seconds.
            TypeError: ``fn`` is not callable or an asynchronous generator, or an option of the executor is
                passed as an argument that ``fn`` does not take.
        """
        future = self._session.future()
        try:
            if kwargs and not OPTION_NAMES.isdisjoint(kwargs):
                check_option_names(fn, args, kwargs)
            function, payload, future.yields = self._bind(fn, args, kwargs)
        except UmbelError as error:
            future.fail(future_as_argument(args, kwargs) or error)
            return future
        self._send(function, payload, future)
        return future

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Call ``fn`` at the endpoint for each tuple of arguments.

        The calls are submitted now, not when the first result is read. When the iterator is closed or raises
        an exception, or is discarded after the first result was requested, the calls whose results have not
        been read are cancelled.

        Args:
            fn: A function or any other callable.
            *iterables: One iterable per argument of ``fn``; the shortest one determines the number of calls.
            timeout: Seconds from now after which waiting for a result fails. Default: wait indefinitely.
            chunksize: Calls per task. Calls travel in bundles anyway; larger values only save task records.
            buffersize: Maximum number of tasks in progress whose results have not been read. The iterables
                are read as results are read, so endless ones are possible. Default: read all of them now.

        Returns:
            An iterator over the results, in the order of the arguments. It raises a call's exception when it
            reaches that call, and TimeoutError when ``timeout`` is over.

        Raises:
            TypeError: ``fn`` is not callable.
            ValueError: ``chunksize`` or ``buffersize`` is not valid.
            RuntimeError: The executor is shut down.
        """
        if not callable(fn):
            raise TypeError(f"{fn!r} is not callable: pass a function")
        if chunksize < 1:
            raise ValueError(f"chunksize must be at least 1, got {chunksize}")
        if buffersize is not None and (not isinstance(buffersize, int) or buffersize < 1):
            raise ValueError(f"buffersize must be None or an integer of at least 1, got {buffersize!r}")
        deadline = None if timeout is None else time.monotonic() + timeout
        calls = zip(*iterables)
        if chunksize == 1:
            tasks: Iterator[UmbelFuture] = (self.submit(fn, *args) for args in calls)
        else:
            run = functools.partial(run_chunk, fn)  # also lists what generators yield
            run = attach(run, environment_of(fn), chunk_limits(limits_of(fn), chunksize))
            # once, not for every chunk
            body = replace(self._session.functions.get(run), name=function_name(fn))
            tasks = (self._submit_body(body, chunk) for chunk in chunks(calls, chunksize))
        results = MapResults(tasks, buffersize, deadline, self._session.cancel_later)
        return results if chunksize == 1 else ChunkResults(results)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the service has stored all calls submitted so far. They run even if this program ends.

        Args:
            timeout: How long to wait, seconds. Default: indefinitely.

        Raises:
            TimeoutError: The service has not accepted all calls in time. They are still submitted.
            ServiceError: Calls submitted since the last ``flush`` were rejected, or the service was not
                reached; their futures have the same exception.
        """
        self._session.flush(timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls.

        Args:
            wait: Wait until all calls have finished. Without it, futures are still resolved.
            cancel_futures: Cancel the calls that have not started, at the endpoint too. As with the standard
                library's executors, running calls continue; ``UmbelFuture.cancel`` stops them. The futures of
                calls that the service has accepted are cancelled when it answers.
        """
        self._session.close()
        if cancel_futures:
            self._session.cancel_unstarted(whole_group=self._own_group)
        if wait:
            self._session.wait()

    @classmethod
    def reload(cls, group_id: str, *, client: Client | None = None) -> list[UmbelFuture]:
        """Return the futures of all tasks of a group, for a program that was started again.

        Args:
            group_id: Id of the group: ``group_id`` of an executor.
            client: A client to share. Default: a new ``Client()``.

        Returns:
            Futures in the order of submission, including those of finished tasks. The service keeps results
            until their retention ends, 14 days unless it is configured otherwise.

        Raises:
            NotFound: The user has no such group (``GROUP_NOT_FOUND``).
            ServiceError: A request failed.
        """
        used = client or Client()
        tasks = sorted(used.tasks(group_id=group_id), key=_task_order)
        if not tasks:
            used.get_group(group_id)  # raises NotFound if the group does not exist
            return []
        route = Route(str(tasks[0]["endpoint_id"]), group_id, Options())
        session = Session(used, route, owns_client=client is None)
        futures = []
        for task in tasks:
            future = session.future()
            future.task_id = task["id"]
            futures.append(future)
        session.expect(futures)
        session.close()
        return futures

    def _bind(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[FunctionBody, bytes, bool]:
        """Return the serialized function and payload of a call, and whether it yields items."""
        kind = kind_of(fn)
        if kind is Kind.ASYNC_GENERATOR:
            raise TypeError(f"{fn!r} is an asynchronous generator: pass a generator or a coroutine function")
        functions = self._session.functions
        if kind is Kind.COROUTINE:
            run = attach(functools.partial(run_coroutine, fn), environment_of(fn), limits_of(fn))
            return *functions.bind(run, args, kwargs, function_name(fn)), False
        return *functions.bind(fn, args, kwargs), kind is Kind.GENERATOR

    def _submit_body(self, function: FunctionBody, *args: Any) -> UmbelFuture:
        future = self._session.future()
        try:
            payload = dump_call(args, {})
        except UmbelError as error:
            future.fail(error)
            return future
        self._send(function, payload, future)
        return future

    def _send(self, function: FunctionBody, payload: bytes, future: UmbelFuture) -> None:
        if len(payload) > MAX_PAYLOAD_BYTES:
            future.fail(
                TooLarge(
                    f"the arguments of a call of {function.name} have {len(payload):,} bytes, "
                    f"{describe_limit(len(payload))}: pass the path of a file or a reference instead",
                    details={"size": len(payload), "limit": MAX_PAYLOAD_BYTES},
                )
            )
            return
        future.function = function.name
        self._session.send(function, payload, future, self._options)


def _check(endpoint: Any, batch_size: Any, batch_interval: Any, submit_timeout: Any) -> None:
    if not isinstance(batch_size, int) or not 1 <= batch_size <= MAX_CALLS_PER_SUBMISSION:
        raise ValueError(f"batch_size must be from 1 to {MAX_CALLS_PER_SUBMISSION}, got {batch_size!r}")
    for name, value in (("batch_interval", batch_interval), ("submit_timeout", submit_timeout)):
        if value is not None and not (isinstance(value, (int, float)) and value >= 0):
            raise ValueError(f"{name} must be a number of seconds of at least 0, got {value!r}")
    if not isinstance(endpoint, str) or not endpoint:
        raise ValueError(f"endpoint must be the name or id of an endpoint, got {endpoint!r}")


def _slots_of(client: Client, name: str) -> int:
    """Return the number of slots of an endpoint; 0 if it is offline or the service does not answer."""
    try:
        return int(client.get_endpoint(name, FUTURE_PATIENCE)["slots_total"])
    except UmbelError:
        return 0


def _task_order(task: dict[str, Any]) -> str:
    # ids are UUIDv7: they sort by time, and within one submission by position
    return str(task["id"])
