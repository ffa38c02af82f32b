"""How routes are declared, read and documented: flask-smorest with the conventions of this API.

- Bodies are strict JSON with the right Content-Type. Unknown fields of bodies and queries are rejected.
- The value that a view returns is written unchanged. The schema of ``@blp.response`` documents it, and tests
  compare the two: dumping thousands of results field by field would cost more than finding them.
- ``@blp.fails`` documents the error codes of a route.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NoReturn

import flask_smorest
from flask import Request, Response, request
from marshmallow import RAISE, Schema, ValidationError
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import UnprocessableEntity, UnsupportedMediaType

from umbel.protocol import parcel as parcels
from umbel.protocol.errors import HTTP_STATUS, BadRequest, ProtocolError

from . import strict_json
from .buffers import BODY_KEY, Pieces
from .schemas.common import Error
from .schemas.fields import name_unknown

#: Descriptions of the variables in paths.
PATH_PARAMETERS = {
    "endpoint": "Id or name of the endpoint.",
    "file": "File name of the wheel.",
    "function_id": "Id of the function.",
    "group_id": "Id of the group.",
    "project": "Normalized name of the package.",
    "task_id": "Id of the task.",
    "upload": "Id of the upload, a UUID.",
}
#: Responses above this size have an ETag and accept ranges, bytes.
RESUMED_FROM = 256 * 1024
#: Content-Type of a parcel, and the function that encodes a view's value as one, in pieces.
Parcel = tuple[str, Callable[[Any], list[bytes]]]


class Parser(FlaskParser):
    """Reads the arguments of requests with the schemas of routes."""

    DEFAULT_UNKNOWN_BY_LOCATION = {**FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION, "json": RAISE, "query": RAISE}

    def load_json(self, req: Request, schema: Schema) -> Any:
        """Return the body. Raises UnsupportedMediaType, BadRequest."""
        if req.mimetype == parcels.SUBMISSION_TYPE and "payloads" in schema.fields:
            body = req.environ.get(BODY_KEY)
            return _read_parcel(req.get_data(cache=False) if body is None else body)
        if req.mimetype != "application/json":
            raise UnsupportedMediaType(
                "unsupported Content-Type: send JSON with the header 'Content-Type: application/json'"
            )
        return strict_json.loads(req.get_data(cache=False))

    def handle_error(
        self,
        error: ValidationError,
        req: Request,
        schema: Schema,
        *,
        error_status_code: int | None,
        error_headers: Mapping[str, str] | None,
    ) -> NoReturn:
        """Raise UnprocessableEntity with a message for each invalid field."""
        messages = error.normalized_messages()
        for location in messages.values():
            name_unknown(location, schema)
        refused = UnprocessableEntity(_sentence(messages))
        refused.details = messages  # type: ignore[attr-defined]
        raise refused


def _read_parcel(data: bytes | memoryview) -> Any:
    """Read a body with payloads as bytes next to the JSON. Raises BadRequest."""
    try:
        head, joined = parcels.split(data)
        record = strict_json.loads(head)
        if not isinstance(record, dict) or "payloads" in record:
            raise BadRequest("the JSON part of a parcel must be an object without the field 'payloads'")
        record["payloads"] = parcels.cut(record.pop("sizes", None), joined)
        return record
    except ProtocolError as error:
        raise BadRequest(error.message) from None


def _sentence(messages: Mapping[str, Any]) -> str:
    """The first problem in words: ``json.payloads: must have 1 to 10000 items``."""
    path: list[str] = []
    value: Any = messages
    while isinstance(value, Mapping) and value:
        key = next(iter(value))
        path.append(str(key)[:80])
        value = value[key]
    text = value[0] if isinstance(value, list) and value else value
    return f"invalid request: {'.'.join(path)}: {text}"


def _written(pieces: list[bytes], status: int, mimetype: str) -> Response:
    """Return a response; of a large one, a client whose connection was cut can request the rest.

    The first of several pieces identifies the others.
    """
    size = sum(map(len, pieces))
    if request.method != "GET" or size <= RESUMED_FROM:
        return Response(b"".join(pieces), status, mimetype=mimetype)
    whole = "Range" not in request.headers
    body: Any = Pieces(pieces) if whole else b"".join(pieces)
    response = Response(body, status, mimetype=mimetype, direct_passthrough=whole)
    response.content_length = size
    response.set_etag(hashlib.sha256(pieces[0]).hexdigest())
    response.make_conditional(request, accept_ranges=True, complete_length=size)
    return response


class Blueprint(flask_smorest.Blueprint):
    """A blueprint with views that return plain values."""

    ARGUMENTS_PARSER = Parser()

    def route(self, rule: str, *, methods: list[str], **options: Any) -> Callable[..., Any]:
        """Route requests to a view; its name is the operation id in the OpenAPI document."""
        named = re.findall(r"<(\w+)>", rule)
        parameters = [{"in": "path", "name": name, "description": PATH_PARAMETERS[name]} for name in named]
        register = super().route(rule, methods=methods, parameters=parameters, **options)

        def decorator(view: Callable[..., Any]) -> Any:
            return register(self.doc(operationId=view.__name__)(view))

        return decorator

    def arguments(self, schema: type[Schema], **options: Any) -> Callable[..., Any]:
        """Read the arguments of a view with one schema object for all requests: creating it is costly."""
        decorator: Callable[..., Any] = super().arguments(schema(), **options)
        return decorator

    def response(
        self, status_code: int, schema: Any = None, *, parcel: Parcel | None = None, **options: Any
    ) -> Callable[..., Any]:
        """Document a view's response, and write what the view returns: a value, or a value and a status.

        A Response is passed on as it is.

        ``parcel``: an alternative format, for clients that accept it.
        """
        document = super().response(status_code, schema, **options)

        def decorator(view: Callable[..., Any]) -> Any:
            @wraps(view)
            def answer(*args: Any, **kwargs: Any) -> Response:
                value, status = view(*args, **kwargs), status_code
                if isinstance(value, Response):
                    return value
                if isinstance(value, tuple):
                    value, status = value
                if parcel is not None and parcel[0] in request.headers.get("Accept", ""):
                    return _written(parcel[1](value), status, parcel[0])
                text = b"" if status == 204 else strict_json.dumps(value).encode()
                return _written([text], status, "application/json")

            if parcel is not None:
                content = {parcel[0]: {"schema": {"type": "string", "format": "binary"}}}
                answer = self.doc(responses={status_code: {"content": content}})(answer)
            return document(answer)

        return decorator

    def fails(self, *codes: str) -> Callable[..., Any]:
        """Document the error codes that are specific to a view."""
        by_status: dict[int, list[str]] = defaultdict(list)
        for code in codes:
            by_status[HTTP_STATUS[code]].append(code)

        def decorator(view: Callable[..., Any]) -> Any:
            for status, listed in by_status.items():
                view = self.alt_response(status, schema=Error, description=" or ".join(listed))(view)
            return view

        return decorator
