"""One call: from its arguments to status, details and payload of its outcome."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import GeneratorType
from typing import Any

from umbel.protocol import limits
from umbel.serialization.bound import Bound
from umbel.serialization.compression import describe_limit
from umbel.serialize import dump_exception, dump_result, load_call

from ..ipc import stream
from ..ipc.shared_memory import FAILED, SUCCEEDED
from .call_directory import WORK_VARIABLE

#: Its own reference: a call may replace the function of module os.
_exit = os._exit
#: Serialized arguments of a call.
Data = bytes | memoryview
#: If the arguments of a bundle's calls have more than this on average (bytes), calls read them in place.
LARGE_ARGUMENTS = 16 * 1024
#: Maximum length of a failure message (characters); the traceback is sent separately.
MAX_MESSAGE = 500


def arguments_in(body: bytes, first: int, calls: int) -> Data:
    """Return the part of a bundle with the arguments of so many calls; large ones are not copied."""
    return memoryview(body)[first:] if len(body) > LARGE_ARGUMENTS * calls else body[first:]


def run_call(
    function: Callable[..., Any], data: Data, limited: bool, send_items: Callable[[Any], Any], runner: int
) -> tuple[int, bytes, bytes]:
    """Run one call; return status, details and payload of its outcome, whatever the call raises.

    ``send_items`` sends the items of a generator and returns the generator's return value; ``runner``: id of
    this process.
    """
    try:
        function, args, kwargs = _load(function, data)
    except BaseException as error:  # unpickling runs user code, which may raise anything
        return _failure("DESERIALIZE_ERROR", error, limited)
    try:
        value = function(*args, **kwargs)
        if type(value) is GeneratorType:
            value = send_items(value)
    except stream.NotTransferable as error:
        if error.__cause__ is not None:
            return _failure("RESULT_NOT_SERIALIZABLE", error.__cause__, limited)
        return FAILED, details_of("RESULT_TOO_LARGE", str(error)), b""
    except BaseException as error:  # SystemExit and KeyboardInterrupt are outcomes of a call, too
        if os.getpid() != runner:
            # the call forked, and this is the child: it ends as in a program of its own
            end_child(error)
        return _failure("TASK_ERROR", error, limited)
    try:
        payload = dump_result(value)
    except BaseException as error:  # pickling runs user code, which may raise anything
        return _failure("RESULT_NOT_SERIALIZABLE", error, limited)
    if len(payload) > limits.MAX_PAYLOAD_BYTES:
        message = (
            f"the result has {len(payload):,} bytes, {describe_limit(len(payload))}: "
            f"write it to a file below ${WORK_VARIABLE} and return its path, or return a part of it"
        )
        return FAILED, details_of("RESULT_TOO_LARGE", message), b""
    return SUCCEEDED, b"", payload


def _load(
    function: Callable[..., Any], data: Data
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return the function of a call with its state, and the call's arguments."""
    args, kwargs = load_call(data)
    if type(function) is Bound:
        function, args = function.load(args)
    return function, args, kwargs


def _failure(code: str, error: BaseException, limited: bool) -> tuple[int, bytes, bytes]:
    if limited and (isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError)):
        # the frames reference the objects that filled the memory
        traceback.clear_frames(error.__traceback__)
        return (
            FAILED,
            details_of("MEMORY_LIMIT", "the call exceeded its memory limit: raise `memory`"),
            b"",
        )
    if code == "DESERIALIZE_ERROR":
        code = getattr(error, "code", code)
        code = code if code in ("DESERIALIZE_ERROR", "VERSION_MISMATCH") else "DESERIALIZE_ERROR"
    message = getattr(error, "message", None) if code != "TASK_ERROR" else None
    details = details_of(code, message if isinstance(message, str) else describe(error))
    return FAILED, details, dump_exception(error) if code == "TASK_ERROR" else b""


def details_of(code: str, message: str) -> bytes:
    """Return the details of a failure."""
    return json.dumps({"code": code, "message": message[:MAX_MESSAGE]}).encode()


def with_details(details: bytes, **more: Any) -> bytes:
    """Add to the details of a call: ``usage``, its resources; ``local``, packages that travel with it."""
    return json.dumps({**(json.loads(details) if details else {}), **more}).encode()


def end_child(error: BaseException | None) -> None:
    """End a process that a call has forked, with the exit status that Python gives it; does not return."""
    code: object = None
    if isinstance(error, SystemExit):
        code = error.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    elif error is not None:
        traceback.print_exception(type(error), error, error.__traceback__)
        code = 1
    for stream_ in (sys.stdout, sys.stderr):
        try:
            stream_.flush()
        except (AttributeError, ValueError, OSError):
            pass  # closed or replaced by the call
    _exit(code & 0xFF if isinstance(code, int) else 0)


def end_like(status: int) -> None:
    """End this process as its child has ended, so that the supervisor reports that; does not return."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    _exit(code if code >= 0 else 1)


def describe(error: BaseException) -> str:
    """Return class and message of an exception."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # __str__ of any class
        return type(error).__name__
