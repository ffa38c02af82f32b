"""Values and errors from the service's answers."""

from __future__ import annotations

import json
from typing import Any

from ..protocol import compact_json, parcel
from ..protocol.errors import ProtocolError, ServiceError, ServiceUnavailable, service_error
from .connections import Answer

#: Statuses after which the same request may succeed a little later.
RETRIED = frozenset({429, 502, 503, 504})  # and 500, for a short time


class RetryableError(Exception):
    """A failed try that may be repeated after ``pause`` seconds; only for a short time if ``brief``."""

    def __init__(self, error: ServiceError, pause: float = 0.0, brief: bool = False):
        super().__init__(error)
        self.error = error
        self.pause = pause
        self.brief = brief


def read_answer(answer: Answer) -> Any:
    """Return the value of an answer. Raises ServiceError, RetryableError."""
    if 200 <= answer.status < 300:
        if not answer.data:
            return None
        try:
            if answer.headers.get("Content-Type") == parcel.RESULTS_TYPE:
                return parcel.unpack_results(answer.data)
            return compact_json.decode(answer.data)
        except (ValueError, ProtocolError):
            raise ServiceUnavailable(
                "the service's answer is neither JSON nor the requested parcel: check that the address is "
                "that of an Umbel service"
            ) from None
    error = _read_error(answer.status, answer.data)
    if answer.status in RETRIED:
        raise RetryableError(error, _retry_after(answer.headers.get("Retry-After"), error))
    if answer.status == 500:
        raise RetryableError(error, brief=True)
    raise error


def _read_error(status: int, data: bytes) -> ServiceError:
    try:
        answer = json.loads(data)
        code, message, details = answer.get("code"), str(answer.get("message", "")), answer.get("details")
        details = dict(details or {})
    except (ValueError, AttributeError, TypeError):
        code, message, details = None, "", {}
    if not message:
        message = f"the service, or a proxy in front of it, answered with HTTP status {status}"
    return service_error(status, code, message, details)


def _retry_after(header: str | None, error: ServiceError) -> float:
    """Return the pause that the service asks for, seconds."""
    try:
        return float(header or error.details.get("retry_after") or 0.0)
    except (TypeError, ValueError):
        return 0.0  # a date, which only proxies send: the usual pauses suffice
