"""Declaration, parsing and documentation of routes, based on flask-smorest.

- Bodies are strict JSON with the right Content-Type; unknown fields are rejected in bodies and queries. - The
return value of a view is serialized as it is. The schema of ``@blp.response`` only documents it, and tests
  verify that both agree: serializing thousands of results field by field would cost more than finding them.
- ``@blp.fails`` documents the error codes of a route.
"""

from __future__ import annotations

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
from .schemas.common import Error

#: Descriptions of the variables in paths.
PATH_PARAMETERS = {
    "endpoint": "Id or name of the endpoint.",
    "file": "File name of the wheel.",
    "function_id": "Id of the function.",
    "group_id": "Id of the group.",
    "project": "Normalized name of the package.",
    "task_id": "Id of the task.",
}
#: Content-Type of a parcel, and the function that encodes a view's value as one.
Parcel = tuple[str, Callable[[Any], bytes]]


class Parser(FlaskParser):
    """Parses the arguments of requests for the schemas of routes."""

    DEFAULT_UNKNOWN_BY_LOCATION = {**FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION, "json": RAISE, "query": RAISE}

    def load_json(self, req: Request, schema: Schema) -> Any:
        """Parse the body. Raises UnsupportedMediaType, BadRequest."""
        if req.mimetype == parcels.SUBMISSION_TYPE and "payloads" in schema.fields:
            return _read_parcel(req.get_data(cache=False))
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
        """Raise UnprocessableEntity with the messages for each field."""
        messages = error.normalized_messages()
        refused = UnprocessableEntity(_first_message(messages))
        refused.details = messages  # type: ignore[attr-defined]
        raise refused


def _read_parcel(data: bytes) -> Any:
    """Parse a body with binary payloads after the JSON. Raises BadRequest."""
    try:
        head, joined = parcels.split(data)
        record = strict_json.loads(head)
        if not isinstance(record, dict) or "payloads" in record:
            raise BadRequest("the JSON part of a parcel must be an object without the field 'payloads'")
        record["payloads"] = parcels.cut(record.pop("sizes", None), joined)
        return record
    except ProtocolError as error:
        raise BadRequest(error.message) from None


def _first_message(messages: Mapping[str, Any]) -> str:
    """Format the first message: ``json.payloads: must have 1 to 10000 items``."""
    path: list[str] = []
    value: Any = messages
    while isinstance(value, Mapping) and value:
        key = next(iter(value))
        path.append(str(key)[:80])
        value = value[key]
    text = value[0] if isinstance(value, list) and value else value
    return f"invalid request: {'.'.join(path)}: {text}"


class Blueprint(flask_smorest.Blueprint):
    """A blueprint whose views return plain values."""

    ARGUMENTS_PARSER = Parser()

    def route(self, rule: str, *, methods: list[str], **options: Any) -> Callable[..., Any]:
        """Register a route; the name of the view becomes the operationId."""
        named = re.findall(r"<(\w+)>", rule)
        parameters = [{"in": "path", "name": name, "description": PATH_PARAMETERS[name]} for name in named]
        register = super().route(rule, methods=methods, parameters=parameters, **options)

        def decorator(view: Callable[..., Any]) -> Any:
            return register(self.doc(operationId=view.__name__)(view))

        return decorator

    def arguments(self, schema: type[Schema], **options: Any) -> Callable[..., Any]:
        """Parse the arguments of a view. All requests share one schema object, which is slow to create."""
        decorator: Callable[..., Any] = super().arguments(schema(), **options)
        return decorator

    def response(
        self, status_code: int, schema: Any = None, *, parcel: Parcel | None = None, **options: Any
    ) -> Callable[..., Any]:
        """Document a view's response and serialize what the view returns: a value, or a value and a status.

        ``parcel``: alternative binary form for clients that accept it.
        """
        document = super().response(status_code, schema, **options)

        def decorator(view: Callable[..., Any]) -> Any:
            @wraps(view)
            def answer(*args: Any, **kwargs: Any) -> Response:
                value, status = view(*args, **kwargs), status_code
                if isinstance(value, tuple):
                    value, status = value
                if parcel is not None and parcel[0] in request.headers.get("Accept", ""):
                    return Response(parcel[1](value), status, mimetype=parcel[0])
                text = b"" if status == 204 else strict_json.dumps(value)
                return Response(text, status, mimetype="application/json")

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
