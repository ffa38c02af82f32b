"""``Executor.map``: calls in chunks, and their results in order."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from types import CoroutineType, GeneratorType
from typing import Any

from ..futures import UmbelFuture
from ..protocol.run_options import BOUNDS, Limits


class MapResults(Iterator[Any]):
    """The results of ``Executor.map``, in the order of the calls.

    ``close`` cancels the calls whose results have not been read; so does an iterator that is discarded or
    raises after the first result was requested. One that is discarded unread leaves its calls running.
    """

    def __init__(
        self,
        tasks: Iterator[UmbelFuture],
        buffersize: int | None,
        deadline: float | None,
        cancel: Callable[[Iterable[UmbelFuture]], None],
    ):
        # calls are submitted now, not when the first result is requested
        self._futures = deque(itertools.islice(tasks, buffersize))
        self._cancel = cancel
        self._values = _read(self._futures, tasks, deadline, cancel)

    def __next__(self) -> Any:
        return next(self._values)

    def close(self) -> None:
        """Cancel the calls whose results have not been read."""
        self._values.close()
        self._cancel(self._futures)
        self._futures.clear()


class ChunkResults(Iterator[Any]):
    """The results of calls that return lists, one by one."""

    def __init__(self, chunks: MapResults):
        self._chunks = chunks
        self._values = itertools.chain.from_iterable(chunks)

    def __next__(self) -> Any:
        return next(self._values)

    def close(self) -> None:
        """Cancel the calls whose results have not been read."""
        self._chunks.close()
        self._values = itertools.chain.from_iterable(())


def _read(
    futures: deque[UmbelFuture],
    tasks: Iterator[UmbelFuture],
    deadline: float | None,
    cancel: Callable[[Iterable[UmbelFuture]], None],
) -> Any:
    try:
        while futures:
            # without a variable, which would keep the result alive until the next one
            yield _take(futures, tasks, deadline)
    finally:
        cancel(futures)


def _take(futures: deque[UmbelFuture], tasks: Iterator[UmbelFuture], deadline: float | None) -> Any:
    left = None if deadline is None else deadline - time.monotonic()
    result = futures[0].result(left)  # it stays in ``futures`` if this raises, and so is cancelled
    futures.popleft()
    futures.extend(itertools.islice(tasks, 1))
    return result


def run_chunk(fn: Callable[..., Any], chunk: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Make the calls of a chunk at the endpoint."""
    return [_finished(fn(*args)) for args in chunk]


def _finished(value: Any) -> Any:
    if type(value) is GeneratorType:
        return list(value)
    return asyncio.run(value) if type(value) is CoroutineType else value


def chunk_limits(limits: Limits | None, size: int) -> Limits | None:
    """Return limits of ``size`` sequential calls, from the limits of one."""
    if limits is None:
        return None
    times = {name: getattr(limits, name) for name in ("timeout", "cpu") if getattr(limits, name) is not None}
    return replace(limits, **{name: min(size * value, BOUNDS[name][1]) for name, value in times.items()})


def chunks(calls: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    """Yield lists of ``size`` calls; the last one may be shorter."""
    while chunk := list(itertools.islice(calls, size)):
        yield chunk
