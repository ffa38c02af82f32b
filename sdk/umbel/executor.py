"""``concurrent.futures.Executor`` whose calls run at an endpoint of the federation."""

from __future__ import annotations

import functools
import itertools
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor as BaseExecutor
from dataclasses import replace
from typing import Any

from .api.client import Client
from .api.options import Options
from .environment import carry, environment_of, limits_of
from .futures import UmbelFuture
from .protocol import names
from .protocol.errors import TooLarge, UmbelError
from .protocol.limits import MAX_CALLS_PER_SUBMISSION, MAX_PAYLOAD_BYTES
from .protocol.run_options import BOUNDS, Limits
from .serialization.codec import FunctionBody, dump_call, function_name
from .submit.sender import Route
from .submit.session import Session


class Executor(BaseExecutor):
    """Runs calls at an endpoint; a ``concurrent.futures.Executor``, so whatever takes one takes this.

    >>> with Executor("local") as executor:
    ...     print(executor.submit(pow, 2, 10).result(timeout=60))
    1024

    ``endpoint``: name or id. ``group_id``: a group to join, default a new one. ``client``: a connection to
    share, default one of its own to the service that ``Client()`` finds. A call is sent at once; those that
    come while a request is on its way go together in the next one. ``batch_size``: most calls in one request;
    ``batch_interval``: seconds to collect calls before a request; ``submit_timeout``: how long ``submit`` may
    wait (seconds) while the service takes no more calls.

    The rest holds for every call; see ``umbel.api.options.Options``: ``timeout`` (seconds of run time),
    ``memory``, ``cpu``, ``output`` (bytes kept of what it writes), ``open_files``, ``expires`` (seconds in
    the queue), ``retries``, ``retry_on``, ``priority``, ``max_attempts``, ``tags``, ``cores`` (slots of one
    node that each call occupies).

    Thread-safe. A call that is accepted survives this program: see ``reload``. When the interpreter ends,
    what is unsent is sent and results are not waited for.
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
        timeout: float | None = None,
        memory: int | None = None,
        cpu: float | None = None,
        output: int | None = None,
        expires: float | None = None,
        retries: int | None = None,
        retry_on: Sequence[str | type[BaseException]] | None = None,
        priority: int | None = None,
        max_attempts: int | None = None,
        tags: Sequence[str] | None = None,
        cores: int | None = None,
        open_files: int | None = None,
    ):
        if not 1 <= batch_size <= MAX_CALLS_PER_SUBMISSION:
            raise ValueError(f"batch_size is {batch_size}: it must be from 1 to {MAX_CALLS_PER_SUBMISSION}")
        if group_id is not None and not names.is_id(group_id):
            raise ValueError(f"group_id is {group_id!r}: it must be a lower-case UUID with dashes")
        rest = retries, retry_on, priority, max_attempts, tags, cores, open_files
        options = Options(timeout, memory, cpu, output, expires, *rest)
        self._own_group = group_id is None
        route = Route(
            endpoint, group_id or names.new_id(), options, batch_size, batch_interval, submit_timeout
        )
        self._session = Session(client or Client(), route, owns_client=client is None)
        self._get_function = self._session.functions.get
        # an executor that is thrown away without shutdown() leaves no threads behind
        weakref.finalize(self, Session.close, self._session).atexit = False

    @property
    def group_id(self) -> str:
        """Id of the group that all calls of this executor join."""
        return self._session.route.group_id

    @property
    def endpoint(self) -> str:
        """Name or id of the endpoint, as it was given."""
        return self._session.route.endpoint

    def __repr__(self) -> str:
        return f"<umbel.Executor endpoint={self.endpoint!r} group={self.group_id}>"

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> UmbelFuture:
        """Have ``fn(*args, **kwargs)`` called at the endpoint; return its future.

        Whatever goes wrong with this call, also on the way there, is its future's exception: SerializeError,
        TooLarge, NotFound, ServiceUnavailable, TaskError, the function's own. Raises RuntimeError after
        ``shutdown``, TooMany when ``submit_timeout`` is over.
        """
        future = self._session.future()
        try:
            function = self._get_function(fn)
            payload = dump_call(args, kwargs)
        except UmbelError as error:
            future.fail(error)
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
        """Return an iterator over the results of ``fn`` for each tuple of arguments, in their order.

        ``timeout``: seconds from now after which waiting for a result raises TimeoutError. ``chunksize``:
        calls per task; tasks travel in bundles anyway, so this only saves records of very short calls.
        ``buffersize``: how many tasks may be under way whose results have not been taken; arguments are then
        read as results are taken, so a generator of a million calls needs little memory. None: all are read
        at once.
        """
        if not callable(fn):
            raise TypeError(f"{fn!r} is not callable: give a function")
        if chunksize < 1:
            raise ValueError(f"chunksize is {chunksize}: it must be at least 1")
        if buffersize is not None and (not isinstance(buffersize, int) or buffersize < 1):
            raise ValueError(f"buffersize is {buffersize!r}: it must be None or an integer of at least 1")
        deadline = None if timeout is None else time.monotonic() + timeout
        calls = zip(*iterables)
        if chunksize == 1:
            tasks: Iterator[UmbelFuture] = (self.submit(fn, *args) for args in calls)
        else:
            run = functools.partial(_run_chunk, fn)
            run = carry(run, environment_of(fn), _of_chunk(limits_of(fn), chunksize))
            body = replace(self._get_function(run), name=function_name(fn))  # once, not for every chunk
            tasks = (self._submit_body(body, chunk) for chunk in _chunks(calls, chunksize))
        # calls go out now, not when the first result is asked for
        with self._session.sender.gathering():
            futures = deque(itertools.islice(tasks, buffersize))
        results = self._results(futures, tasks, deadline)
        return results if chunksize == 1 else itertools.chain.from_iterable(results)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; ``wait`` until all have ended; ``cancel_futures``: end those that have not.

        Cancelling ends calls at the endpoint too, whether they are running or not.
        """
        self._session.close()
        if cancel_futures:
            self._session.cancel_all(whole_group=self._own_group)
        if wait:
            self._session.wait()

    @classmethod
    def reload(cls, group_id: str, *, client: Client | None = None) -> list[UmbelFuture]:
        """Return futures for all tasks of a group, in the order of their submission; they may have ended.

        For a program that was started again: its results wait at the service. Raises NotFound.
        """
        used = client or Client()
        tasks = sorted(used.tasks(group_id=group_id), key=_task_order)
        if not tasks:
            used.get_group(group_id)  # tells an empty group from one that does not exist
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
                    f"the arguments of a call of {function.name} are {len(payload)} bytes; "
                    f"{MAX_PAYLOAD_BYTES} are allowed: pass a file's path or a reference instead"
                )
            )
            return
        self._session.send(function, payload, future)

    def _results(
        self, futures: deque[UmbelFuture], tasks: Iterator[UmbelFuture], deadline: float | None
    ) -> Iterator[Any]:
        try:
            while futures:
                left = None if deadline is None else deadline - time.monotonic()
                # taken out before it is yielded, so that results are not kept alive here
                result = futures[0].result(left)
                futures.popleft()
                futures.extend(itertools.islice(tasks, 1))
                yield result
                del result
        finally:
            self._session.drop(futures)


def _run_chunk(fn: Callable[..., Any], chunk: Sequence[tuple[Any, ...]]) -> list[Any]:
    """What runs at the endpoint for ``map(chunksize=...)``."""
    return [fn(*args) for args in chunk]


def _of_chunk(limits: Limits | None, size: int) -> Limits | None:
    """Limits of ``size`` calls one after another, from those of one."""
    if limits is None:
        return None
    times = {name: getattr(limits, name) for name in ("timeout", "cpu") if getattr(limits, name) is not None}
    return replace(limits, **{name: min(size * value, BOUNDS[name][1]) for name, value in times.items()})


def _chunks(calls: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    while chunk := list(itertools.islice(calls, size)):
        yield chunk


def _task_order(task: dict[str, Any]) -> str:
    # ids are UUIDv7: they sort by time, and in one submission by place
    return str(task["id"])
