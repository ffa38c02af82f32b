"""Fields that are stricter, or faster, than marshmallow's own."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from umbel.protocol.limits import MAX_CALLS_PER_SUBMISSION
from umbel.system.settings import suggestion

_ID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_BASE64 = r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

#: Unknown fields of one object that get a suggestion.
_SUGGESTIONS = 8
#: Unknown fields of one object that are reported.
_REPORTED = 100


class Text(fields.String):
    """A string of ``min_length`` to ``max_length`` characters without NUL, which PostgreSQL cannot store."""

    def __init__(self, *, max_length: int, min_length: int = 0, **options: Any):
        described = {"pattern": r"^[^\u0000]*$", **options.pop("metadata", {})}
        super().__init__(validate=validate.Length(min_length, max_length), metadata=described, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        if "\0" in text:
            raise ValidationError("must not contain NUL characters")
        return text


class Id(fields.String):
    """An id: a UUID in lower case."""

    def __init__(self, **options: Any):
        described = {"format": "uuid", "pattern": _ID, **options.pop("metadata", {})}
        super().__init__(validate=_check_id, metadata=described, **options)


def name_unknown(messages: Any, schema: Schema) -> None:
    """Say "did you mean" in ``messages`` about fields that ``schema`` or a schema nested in it lacks.

    Only the first ones are reported, and fewer get a suggestion: a body may have a million unknown fields.
    """
    if not isinstance(messages, dict):
        return
    known = {field.data_key or name: field for name, field in schema.load_fields.items()}
    unknown = [name for name, found in messages.items() if found == [schema.error_messages["unknown"]]]
    for name in unknown[_REPORTED:]:
        del messages[name]
    for name in unknown[:_SUGGESTIONS]:
        messages[name] = [f"unknown field; {suggestion(str(name), known, 'fields')}"]
    for name, field in known.items():
        if isinstance(field, fields.Nested):
            name_unknown(messages.get(name), field.schema)


def _check_id(value: str) -> None:
    # fullmatch, because '$' also matches before a trailing line feed
    if not re.fullmatch(_ID[1:-1], value):
        raise ValidationError("must be a UUID in lower case")


class StrictInteger(fields.Integer):
    """A JSON integer, 3 or 3.0; unlike marshmallow's Integer, it rejects strings."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, str) or (isinstance(value, float) and not value.is_integer()):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class StrictBoolean(fields.Boolean):
    """A boolean, not a string or a number that stands for one."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class Number(fields.Float):
    """A JSON number; unlike marshmallow's Float, it rejects strings."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, str):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class Object(fields.Dict):
    """Any JSON object of at most ``max_bytes`` bytes as JSON and ``max_depth`` levels."""

    def __init__(self, *, max_bytes: int = 16 * 1024, max_depth: int = 16, **options: Any):
        super().__init__(**options)
        self.max_bytes = max_bytes
        self.max_depth = max_depth

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValidationError("must be an object")
        if _size(value, self.max_depth) > self.max_bytes:
            raise ValidationError(f"must be smaller than {self.max_bytes} bytes")
        return value


def _size(value: Any, depth: int) -> int:
    """Estimate the size of a JSON value in bytes. Raises ValidationError if it is nested too deeply."""
    if depth < 0:
        raise ValidationError("is nested too deeply")
    if isinstance(value, str):
        return len(value.encode()) + 3
    if isinstance(value, Mapping):
        return 2 + sum(_size(key, depth) + _size(item, depth - 1) for key, item in value.items())
    if isinstance(value, list):
        return 2 + sum(_size(item, depth - 1) for item in value)
    return 8


class Base64(fields.String):
    """Bytes as base64: at least ``min_bytes``, or ``exactly`` that many."""

    def __init__(self, *, min_bytes: int = 0, exactly: int | None = None, **options: Any):
        described = {"format": "byte", "pattern": _BASE64, "minLength": -(-min_bytes // 3) * 4}
        super().__init__(metadata={**described, **options.pop("metadata", {})}, **options)
        self.min_bytes = min_bytes
        self.exactly = exactly

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        (decoded,) = decode_all([value])
        if len(decoded) < self.min_bytes:
            raise ValidationError(f"must have at least {self.min_bytes} bytes")
        if self.exactly is not None and len(decoded) != self.exactly:
            raise ValidationError(f"must have {self.exactly} bytes, not {len(decoded)}")
        return decoded


class Payloads(fields.List):
    """The payloads of a submission: a list of base64 strings, decoded together.

    marshmallow's List would take ten times as long as the decoding itself for ten thousand small items.
    """

    def __init__(self, **options: Any):
        item = fields.String(metadata={"format": "byte", "pattern": _BASE64})
        super().__init__(item, validate=validate.Length(1, MAX_CALLS_PER_SUBMISSION), **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, list):
            raise ValidationError("must be a list")
        if len(value) > MAX_CALLS_PER_SUBMISSION:  # do not decode a list that will be rejected
            raise ValidationError(f"must have 1 to {MAX_CALLS_PER_SUBMISSION} items")
        if value and isinstance(value[0], bytes):
            return value  # already bytes, from a parcel
        return decode_all(value)


def decode_all(texts: list[Any]) -> list[bytes]:
    """Decode base64 strings strictly. Raises ValidationError for the first invalid one."""
    a2b = binascii.a2b_base64
    try:
        decoded = [a2b(text) for text in texts]
        # the decoder skips invalid characters, and then returns fewer bytes than the length implies
        implied = [len(text) // 4 * 3 - text.endswith("=") - text.endswith("==") for text in texts]
        if implied == list(map(len, decoded)) and not any(len(text) & 3 for text in texts):
            return decoded
    except (ValueError, TypeError, AttributeError):
        pass
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not re.fullmatch(_BASE64[1:-1], text):
            raise ValidationError(
                {number: ["must be base64 with padding"]} if len(texts) > 1 else "must be base64"
            )
    raise ValidationError("must be base64")
