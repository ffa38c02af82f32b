"""The errors of the SDK, the service and the endpoints, and their codes.

::

    UmbelError                      .code  .message  .details
    ├── ServiceError                the service answered with an error     .status
    │   ├── BadRequest 400/422, Unauthorized 401, Forbidden 403, NotFound 404,
    │   ├── Conflict 409, TooLarge 413, TooMany 429
    │   └── ServiceUnavailable 5xx, and a service that cannot be reached
    ├── TaskError                   the task finished without a result     .task_id  .traceback
    │   └── StreamRestarted         a call that yields was started again
    └── ProtocolError               bytes that are not a valid message

Every code that one part sends to another is in ``HTTP_STATUS`` (answers of the API), ``TASK_CODES`` (failed
tasks), ``STATE_CODES`` or ``STREAM_CODES``; tests keep these tables complete.
"""

from __future__ import annotations

from typing import Any

#: Codes of API answers and their HTTP statuses.
HTTP_STATUS: dict[str, int] = {
    "BAD_REQUEST": 400,
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "FUNCTION_NOT_FOUND": 404,
    "ENDPOINT_NOT_FOUND": 404,
    "TASK_NOT_FOUND": 404,
    "GROUP_NOT_FOUND": 404,
    "UPLOAD_NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "NOT_ACCEPTABLE": 406,
    "CONFLICT": 409,
    "NAME_TAKEN": 409,
    "IDEMPOTENCY_MISMATCH": 409,
    "IN_USE": 409,
    "RESULT_NOT_READY": 409,
    "PAYLOAD_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "VALIDATION_ERROR": 422,
    "TOO_MANY_REQUESTS": 429,
    "QUEUE_FULL": 429,
    "INTERNAL_ERROR": 500,
    "UNAVAILABLE": 503,
    "STORAGE_FULL": 507,
}

#: Codes of failed tasks and their meaning for the user.
TASK_CODES: dict[str, str] = {
    "TASK_ERROR": "the function raised an exception",
    "TIMEOUT": "the call ran longer than its time limit",
    "MEMORY_LIMIT": "the call needed more memory than its limit",
    "WORKER_LOST": "the process or node that ran the call was lost, in every attempt of the call",
    "WALLTIME_EXCEEDED": "the batch job of the worker ended before the call, in every attempt of the call",
    "RESULT_TOO_LARGE": "the result, or what the call yielded, is larger than the service accepts",
    "NOT_SERIALIZABLE": "the function or its arguments cannot be serialized",
    "RESULT_NOT_SERIALIZABLE": "the result, or an item that the call yielded, cannot be serialized",
    "DESERIALIZE_ERROR": "the function or its arguments cannot be loaded at the endpoint",
    "VERSION_MISMATCH": "the function comes from another Python version and cannot be rebuilt from source",
    "NOT_ALLOWED": "a rule of the endpoint rejects the call, or no node has enough slots",
    "ENVIRONMENT_ERROR": "the environment of the function cannot be built",
    "DEPENDENCY_FAILED": "a task that this one depends on did not succeed",
    "INVALID_BUNDLE": "the endpoint rejected the message: invalid signature, wrong recipient or too old",
}

#: Codes of final states other than ``failed``.
STATE_CODES: dict[str, str] = {
    "CANCELLED": "the task was cancelled",
    "EXPIRED": "the task was not started within its ``expires``",
}

#: Codes of errors while the items of a task are read; the task itself may succeed.
STREAM_CODES: dict[str, str] = {
    "STREAM_RESTARTED": "the call was started again and yields its items from the first one",
    "STREAM_INCOMPLETE": "items of the call were lost before they reached the service",
}


class UmbelError(Exception):
    """An error of Umbel; the base class of all others.

    Args:
        message: What happened, for people. Default: the first line of the class's docstring.
        code: What happened, for programs: upper case, with a fixed meaning. Default: the class's.
        details: The values behind the message, a JSON object. Default: empty.

    Attributes:
        message (str): What happened, for people.
        code (str): What happened, for programs.
        details (dict): The values behind the message.
    """

    default_code = "INTERNAL_ERROR"

    def __init__(self, message: str = "", *, code: str | None = None, details: dict[str, Any] | None = None):
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.code = code or self.default_code
        self.details = dict(details or {})
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.code, self.details, self._extra())

    def _extra(self) -> dict[str, Any]:
        """Attributes other than the three common ones, for pickling."""
        return {k: v for k, v in self.__dict__.items() if k not in ("message", "code", "details")}


def _rebuild(
    cls: type[UmbelError], message: str, code: str, details: dict[str, Any], extra: dict[str, Any]
) -> UmbelError:
    error = cls.__new__(cls)
    UmbelError.__init__(error, message, code=code, details=details)
    error.__dict__.update(extra)
    return error


class ProtocolError(UmbelError):
    """A message between the service and an endpoint is not valid.

    The signature, the recipient, the date or the content is wrong. Codes: ``INVALID_BUNDLE``,
    ``VERSION_MISMATCH``, ``BAD_REQUEST``.
    """

    default_code = "INVALID_BUNDLE"


class ServiceError(UmbelError):
    """The service rejected a request or could not process it.

    Base class of all errors of requests.
    """

    @property
    def status(self) -> int:
        """HTTP status of the code; 500 for an unknown code."""
        return HTTP_STATUS.get(self.code, 500)


class BadRequest(ServiceError):
    """The request is not valid.

    An argument has the wrong type or is out of range; the message names it. Also raised when the address or
    the account file of a client is not valid. Codes: ``BAD_REQUEST``, ``VALIDATION_ERROR``,
    ``METHOD_NOT_ALLOWED``, ``NOT_ACCEPTABLE``, ``UNSUPPORTED_MEDIA_TYPE``.
    """

    default_code = "BAD_REQUEST"


class Unauthorized(ServiceError):
    """The bearer token is missing, unknown, expired or revoked.

    Log in with ``umbel login URL``, or set ``UMBEL_TOKEN``. Code: ``UNAUTHORIZED``.
    """

    default_code = "UNAUTHORIZED"


class Forbidden(ServiceError):
    """The user may not do this with this object.

    Code: ``FORBIDDEN``.
    """

    default_code = "FORBIDDEN"


class NotFound(ServiceError):
    """There is no such object, or the user may not see it.

    Codes: ``NOT_FOUND``, ``FUNCTION_NOT_FOUND``, ``ENDPOINT_NOT_FOUND``, ``TASK_NOT_FOUND``,
    ``GROUP_NOT_FOUND``, ``UPLOAD_NOT_FOUND``.
    """

    default_code = "NOT_FOUND"


class Conflict(ServiceError):
    """The request conflicts with the present state of the object.

    Codes: ``CONFLICT``, ``NAME_TAKEN`` (an endpoint has this name), ``IN_USE`` (the endpoint has unfinished
    tasks), ``RESULT_NOT_READY`` (the task has not finished), ``IDEMPOTENCY_MISMATCH`` (the same key with
    another submission).
    """

    default_code = "CONFLICT"


class TooLarge(ServiceError):
    """A request, an argument or a function is larger than the service accepts.

    Pass the path of a file or a reference instead of the data. Code: ``PAYLOAD_TOO_LARGE``.
    """

    default_code = "PAYLOAD_TOO_LARGE"


class TooMany(ServiceError):
    """Too many requests, or too many unfinished tasks.

    ``details["retry_after"]``, if present, is the time to wait before trying again, seconds. The SDK repeats
    such requests automatically; it raises this only when its ``patience`` or ``submit_timeout`` is over.
    Codes: ``TOO_MANY_REQUESTS``, ``QUEUE_FULL``.
    """

    default_code = "TOO_MANY_REQUESTS"


class ServiceUnavailable(ServiceError):
    """The service cannot be reached or cannot answer at present.

    The SDK repeats requests where that is safe; it raises this when its ``patience`` is over. Codes:
    ``UNAVAILABLE``, ``INTERNAL_ERROR``, ``STORAGE_FULL``.
    """

    default_code = "UNAVAILABLE"


_BY_STATUS: dict[int, type[ServiceError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: BadRequest,
    406: BadRequest,
    409: Conflict,
    413: TooLarge,
    415: BadRequest,
    422: BadRequest,
    429: TooMany,
}


def service_error(
    status: int, code: str | None, message: str, details: dict[str, Any] | None = None
) -> ServiceError:
    """Return the error of an HTTP answer.

    Args:
        status: HTTP status, 400 or higher.
        code: Code of the answer. None: the default of the class.
        message: Message of the answer.
        details: Details of the answer.
    """
    cls = _BY_STATUS.get(status, ServiceUnavailable if status >= 500 else BadRequest)
    return cls(message, code=code, details=details)


class TaskError(UmbelError):
    """A task finished without a result.

    If the function raised an exception whose class can be rebuilt safely, a future raises that exception, and
    the TaskError with the remote traceback is its ``__cause__``; otherwise it raises the TaskError.

    Args:
        message: What happened, for people.
        code: One of ``TASK_CODES``, ``EXPIRED``, or one of ``STREAM_CODES``. Default: ``TASK_ERROR``.
        task_id: Id of the task.
        traceback: The traceback of the function's exception at the endpoint, a string.
        details: The values behind the message, a JSON object.

    Attributes:
        task_id (str | None): Id of the task.
        traceback (str | None): The traceback at the endpoint. ``str(error)`` includes it.
    """

    default_code = "TASK_ERROR"

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        task_id: str | None = None,
        traceback: str | None = None,
        details: dict[str, Any] | None = None,
    ):
        super().__init__(message, code=code, details=details)
        self.task_id = task_id
        self.traceback = traceback

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n\n{self.traceback}" if self.traceback else text


class StreamRestarted(TaskError):
    """A call that yields was started again after some of its items were read.

    Discard these items and read the stream again: it begins with the first item. Code: ``STREAM_RESTARTED``.
    """

    default_code = "STREAM_RESTARTED"
