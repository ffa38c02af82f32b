"""Threads that run serialized calls for the service in memory."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from types import GeneratorType
from typing import Any, Protocol

from ..protocol.errors import UmbelError
from ..protocol.limits import MAX_PAYLOAD_BYTES
from ..protocol.states import TaskState
from ..serialization.bound import Bound
from ..serialization.codec import dump_result, load_call, load_function
from ..serialization.compression import describe_limit
from ..serialization.exceptions import dump_exception

Outcome = dict[str, Any]


class Call(Protocol):
    """One call: its arguments and its options."""

    payload: bytes
    options: dict[str, Any]


class CallSource(Protocol):
    """The source of calls and the receiver of their outcomes."""

    def take(self) -> tuple[Any, int] | None:
        """Wait for a call; return it and its attempt, or None when there are no more."""

    def end(self, task: Any, attempt: int, state: TaskState, outcome: Outcome) -> bool:
        """Record the outcome of a call; return False if the task had already finished."""

    def add_item(self, task: Any, attempt: int, item: bytes | None) -> None:
        """Add a serialized item that a call yields. None: it begins to yield."""

    def function(self, task: Any) -> bytes:
        """Return the serialized function of a call."""


class Workers:
    """Threads that run calls. A thread exits if its task was finished before the call returned."""

    def __init__(self, source: CallSource):
        self._source = source
        self._loaded: dict[bytes, Callable[..., Any]] = {}
        self._numbers = itertools.count()

    def start_thread(self) -> None:
        """Start a thread: initially, and to replace one whose call was cancelled or timed out."""
        name = f"umbel-memory-{next(self._numbers)}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (taken := self._source.take()) is not None:
            task, attempt = taken
            timer = self._start_timer(task, attempt)
            state, outcome = self.run(
                self._source.function(task),
                task.payload,
                lambda item: self._source.add_item(task, attempt, item),
            )
            if timer is not None:
                timer.cancel()
            if not self._source.end(task, attempt, state, outcome):
                return

    def _start_timer(self, task: Call, attempt: int) -> threading.Timer | None:
        seconds = task.options.get("timeout")
        if seconds is None:
            return None
        timer = threading.Timer(seconds, self._time_out, (task, attempt, seconds))
        timer.daemon = True
        timer.start()
        return timer

    def _time_out(self, task: Call, attempt: int, seconds: float) -> None:
        if self._source.end(task, attempt, *_failed("TIMEOUT", f"the call ran longer than {seconds} s")):
            self.start_thread()

    def run(
        self, function: bytes, payload: bytes, put: Callable[[bytes | None], None]
    ) -> tuple[TaskState, Outcome]:
        """Run a call; return its state and its outcome: code, message, and ``result`` or ``exception``.

        ``put`` receives the items that it yields. If the function raised, the outcome has the class of the
        exception in ``name`` (``module.Class``).
        """
        try:
            fn = self._loaded.get(function)
            if fn is None:
                fn = self._loaded[function] = load_function(function)
            args, kwargs = load_call(payload)
            if type(fn) is Bound:
                fn, args = fn.load(args)
        except UmbelError as error:
            return _failed(error.code, error.message)
        try:
            value = fn(*args, **kwargs)
            if type(value) is GeneratorType:
                value = _drain(value, put)
        except _InvalidItem as error:
            return _failed(error.code, error.message)
        except BaseException as error:  # whatever the function raises is the outcome of its task
            state, outcome = _failed("TASK_ERROR", f"{type(error).__name__}: {error}")
            name = f"{type(error).__module__}.{type(error).__qualname__}"
            return state, {**outcome, "name": name, "exception": dump_exception(error)}
        try:
            data = dump_result(value)
        except UmbelError as error:
            return _failed("RESULT_NOT_SERIALIZABLE", error.message)
        if len(data) > MAX_PAYLOAD_BYTES:
            message = f"the result has {len(data):,} bytes, {describe_limit(len(data))}"
            return _failed("RESULT_TOO_LARGE", message)
        return TaskState.SUCCEEDED, {"code": None, "message": None, "result": data}


class _InvalidItem(UmbelError):
    """A call has yielded an item that cannot be serialized or is too large."""


def _drain(generator: Any, put: Callable[[bytes | None], None]) -> Any:
    """Pass the items of a generator to ``put``; return the result of the generator."""
    put(None)
    while True:
        try:
            item = next(generator)
        except StopIteration as stop:
            return stop.value
        try:
            data = dump_result(item)
        except UmbelError as error:
            raise _InvalidItem(error.message, code="RESULT_NOT_SERIALIZABLE") from error
        if len(data) > MAX_PAYLOAD_BYTES:
            message = f"an item has {len(data):,} bytes, {describe_limit(len(data))}"
            raise _InvalidItem(message, code="RESULT_TOO_LARGE")
        put(data)


def _failed(code: str, message: str) -> tuple[TaskState, Outcome]:
    return TaskState.FAILED, {"code": code, "message": message}
