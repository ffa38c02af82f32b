"""Every error of the API as ``{"code", "message", "details"}`` with the HTTP status of its code."""

from __future__ import annotations

import logging
import uuid
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from federation.broker.client import BrokerError
from federation.db.errors import DatabaseConflict, DatabaseError, DatabaseFull, DatabaseUnavailable
from umbel.protocol import limits
from umbel.protocol.errors import HTTP_STATUS, ServiceError, ServiceUnavailable, TooMany

from . import strict_json

log = logging.getLogger(__name__)

#: Codes for errors of Flask and werkzeug, by status.
CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    406: "NOT_ACCEPTABLE",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    422: "VALIDATION_ERROR",
    429: "TOO_MANY_REQUESTS",
    503: "UNAVAILABLE",
}
#: Default of the header Retry-After, seconds.
RETRY_AFTER = 1


def install(app: Flask) -> None:
    """Register the error handlers of ``app``."""
    app.register_error_handler(ServiceError, _service_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(DatabaseError, _database_error)
    for kind in BrokerError:
        app.register_error_handler(kind, _broker_error)
    app.register_error_handler(Exception, _unexpected)


def body(code: str, message: str, details: dict[str, Any] | None = None) -> str:
    """Return the JSON of an error."""
    return strict_json.dumps({"code": code, "message": message, "details": details or {}})


def _response(
    code: str, message: str, details: dict[str, Any] | None = None, status: int | None = None
) -> Response:
    status = status or HTTP_STATUS.get(code, 500)
    response = Response(body(code, message, details), status, mimetype="application/json")
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


def _service_error(error: ServiceError) -> Response:
    if isinstance(error, ServiceUnavailable):
        log.warning("%s %s: %s", request.method, request.path, error)
    response = _response(error.code, error.message, error.details)
    if isinstance(error, TooMany) and "retry_after" in error.details:
        response.headers["Retry-After"] = str(max(1, round(error.details["retry_after"])))
    return response


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    if status < 400:  # a redirect, which werkzeug also raises as an exception
        return Response(response=b"", status=status, headers=dict(error.get_headers()))
    code = CODES.get(status, "INTERNAL_ERROR" if status >= 500 else "BAD_REQUEST")
    response = _response(code, _message(status, error), getattr(error, "details", None), status)
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    return response


def _message(status: int, error: HTTPException) -> str:
    if status == 404:
        return f"no such path: {request.path[:200]}: see /docs for all paths"
    if status == 405:
        return f"method {request.method[:20]} is not allowed for {request.path[:200]}: see /docs"
    if status == 413:
        return f"the request body exceeds {limits.MAX_REQUEST_BYTES} bytes: split it into smaller requests"
    return error.description or error.name


def _database_error(error: DatabaseError) -> Response:
    """Answer 503 only if the same request can succeed later: clients repeat it for minutes."""
    if isinstance(error, DatabaseUnavailable):
        log.warning("%s %s: %s", request.method, request.path, error)
        return _response(error.code, "the database of the service is unavailable: try again")
    if isinstance(error, DatabaseFull):
        log.error("%s %s: %s", request.method, request.path, error)
        return _response(
            error.code, "the disk of the service is full, nothing was stored: contact its administrator"
        )
    incident = _incident()
    details = {"incident": incident}
    if isinstance(error, DatabaseConflict):
        return _response(
            error.code, f"the request conflicts with another one (incident {incident}): try again", details
        )
    return _response(
        error.code, f"the database rejected a value of the request, logged as incident {incident}", details
    )


def _broker_error(error: Exception) -> Response:
    log.exception("%s %s: broker error", request.method, request.path)
    return _response("UNAVAILABLE", "the broker of the service is unavailable: try again")


def _unexpected(error: Exception) -> Response:
    """Log an unexpected error; the response has only an incident id, no internal details."""
    incident = _incident()
    return _response(
        "INTERNAL_ERROR",
        f"internal error, logged as incident {incident}: contact the administrator of the service",
        {"incident": incident},
    )


def _incident() -> str:
    """Log the current exception with its traceback; return the id of its log line."""
    incident = uuid.uuid4().hex[:12]
    log.exception("incident %s: %s %s", incident, request.method, request.path)
    return incident
