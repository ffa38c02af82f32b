"""Values and exceptions from the API's records of finished tasks."""

from __future__ import annotations

import base64
from concurrent.futures import CancelledError
from typing import Any

from ..protocol.errors import STATE_CODES, TASK_CODES, TaskError
from ..protocol.states import TaskState
from ..serialization.codec import load_result
from ..serialization.exceptions import load_exception

_SUCCEEDED = TaskState.SUCCEEDED.value
_CANCELLED = TaskState.CANCELLED.value
_EXPIRED = TaskState.EXPIRED.value


def take_payload(record: dict[str, Any]) -> bytes:
    """Remove the serialized result or exception from the API's record of a finished task and return it.

    It is bytes if it came in a parcel, base64 if it came in JSON.
    """
    result, exception = record.pop("result", None), record.pop("exception", None)
    data = result if result is not None else exception or b""
    return data if isinstance(data, bytes) else base64.b64decode(data)


def read_outcome(record: dict[str, Any]) -> Any:
    """Return the result of a finished task, or raise its exception.

    Raises CancelledError for a cancelled task, DeserializeError when the result cannot be loaded here.
    """
    payload = take_payload(record)
    if record["state"] == _SUCCEEDED:
        return load_result(payload)
    if record["state"] == _CANCELLED:
        raise CancelledError(f"task {record['task_id']} was cancelled")
    raise read_error(record, payload)


def read_error(record: dict[str, Any], payload: bytes) -> BaseException:
    """Return the exception of a task that failed or expired.

    ``payload`` describes the exception that the function raised; it is empty if there is none.
    """
    task_id = record["task_id"]
    code = record.get("code") or ("EXPIRED" if record["state"] == _EXPIRED else "TASK_ERROR")
    if payload:
        return load_exception(payload, task_id, code)
    meaning = TASK_CODES.get(code) or STATE_CODES.get(code) or "the task failed"
    return TaskError(record.get("message") or meaning, code=code, task_id=task_id)
