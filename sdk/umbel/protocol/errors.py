"""One tree of errors for the SDK, the service and the endpoints.

::

    UmbelError                      .code  .message  .details
    ├── ServiceError                the service answered with an error     .status
    │   ├── BadRequest 400/422, Unauthorized 401, Forbidden 403, NotFound 404,
    │   ├── Conflict 409, TooLarge 413, TooMany 429
    │   └── ServiceUnavailable 5xx, and a service that cannot be reached
    ├── TaskError                   the task ended without a result        .task_id
    │   └── StreamRestarted         a call that yields was started again
    └── ProtocolError               bytes that are not what they claim to be

Every code that may cross a border is listed in ``HTTP_STATUS`` (answers of the API),
``TASK_CODES`` (ends of a task) or ``STREAM_CODES``; tests hold the lists complete.
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

#: Codes that a failed task may carry, each with what it means to the person who submitted it.
TASK_CODES: dict[str, str] = {
    "TASK_ERROR": "the function raised an exception",
    "TIMEOUT": "the call ran longer than its time limit",
    "MEMORY_LIMIT": "the call needed more memory than its limit",
    "WORKER_LOST": "the process or node that ran the call died, as often as the call may be tried",
    "WALLTIME_EXCEEDED": "the batch job of its worker ended before the call did, as often as may be tried",
    "RESULT_TOO_LARGE": "the result, or what was yielded, is larger than the service carries",
    "NOT_SERIALIZABLE": "the function or its arguments cannot be turned into bytes",
    "RESULT_NOT_SERIALIZABLE": "the result, or an item, cannot be turned into bytes",
    "DESERIALIZE_ERROR": "the function or its arguments cannot be loaded at the endpoint",
    "VERSION_MISMATCH": "the function was made by another Python version and has no source to fall back on",
    "NOT_ALLOWED": "a rule of the endpoint's site refuses the call, or no node has so many slots",
    "ENVIRONMENT_ERROR": "the environment that the function asks for cannot be built",
    "DEPENDENCY_FAILED": "a task that this one waits for did not succeed",
    "INVALID_BUNDLE": "the endpoint refused the message: bad signature, wrong address or too old",
}

#: Codes of states other than ``failed`` that a future may end with.
STATE_CODES: dict[str, str] = {
    "CANCELLED": "the task was cancelled",
    "EXPIRED": "the task was not started before its ``expires``",
}

#: Codes of errors while what a task yields is read; the task itself may end well.
STREAM_CODES: dict[str, str] = {
    "STREAM_RESTARTED": "the call was started again, and yields from its beginning",
    "STREAM_INCOMPLETE": "items of the call were lost on their way",
}


class UmbelError(Exception):
    """Something went wrong in Umbel.

    ``code`` is for programs (upper case, never changes its meaning), ``message`` for people,
    ``details`` a JSON object with the values behind the message.
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
        """Attributes beside the common three, so that errors survive pickling."""
        return {k: v for k, v in self.__dict__.items() if k not in ("message", "code", "details")}


def _rebuild(
    cls: type[UmbelError], message: str, code: str, details: dict[str, Any], extra: dict[str, Any]
) -> UmbelError:
    error = cls.__new__(cls)
    UmbelError.__init__(error, message, code=code, details=details)
    error.__dict__.update(extra)
    return error


class ProtocolError(UmbelError):
    """Bytes that crossed a border are not what they claim to be."""

    default_code = "INVALID_BUNDLE"


class ServiceError(UmbelError):
    """The service refused a request or could not carry it out."""

    @property
    def status(self) -> int:
        """HTTP status that belongs to the code."""
        return HTTP_STATUS.get(self.code, 500)


class BadRequest(ServiceError):
    """The request is not one that the service understands."""

    default_code = "BAD_REQUEST"


class Unauthorized(ServiceError):
    """No valid bearer token came with the request."""

    default_code = "UNAUTHORIZED"


class Forbidden(ServiceError):
    """The caller may not do this to this object."""

    default_code = "FORBIDDEN"


class NotFound(ServiceError):
    """There is no such object, or the caller may not know of it."""

    default_code = "NOT_FOUND"


class Conflict(ServiceError):
    """The request does not fit the object's present state."""

    default_code = "CONFLICT"


class TooLarge(ServiceError):
    """Something sent is larger than the service accepts."""

    default_code = "PAYLOAD_TOO_LARGE"


class TooMany(ServiceError):
    """More is asked than is allowed at once; ``details['retry_after']`` (seconds) says when to ask again."""

    default_code = "TOO_MANY_REQUESTS"


class ServiceUnavailable(ServiceError):
    """The service cannot be reached or cannot answer just now."""

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
    """Build the error that belongs to an HTTP answer of status ``status``."""
    cls = _BY_STATUS.get(status, ServiceUnavailable if status >= 500 else BadRequest)
    return cls(message, code=code, details=details)


class TaskError(UmbelError):
    """A task ended without a result; ``code`` is one of ``TASK_CODES``, ``task_id`` names it.

    Raised from a future when the original exception cannot be rebuilt safely, and as the cause
    (with the remote traceback in ``traceback``) when it can.
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
    """A call that yields was started again after some of its items were read: they begin anew.

    Whoever reads them may forget those that it has and ask for the stream once more.
    """

    default_code = "STREAM_RESTARTED"
