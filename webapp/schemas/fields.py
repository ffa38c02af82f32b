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


class Text(fields.String):
    """Text of ``least`` to ``most`` characters that every database can hold: NUL is refused."""

    def __init__(self, *, most: int, least: int = 0, **options: Any):
        described = {"pattern": r"^[^\u0000]*$", **options.pop("metadata", {})}
        super().__init__(validate=validate.Length(least, most), metadata=described, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        if "\0" in text:
            raise ValidationError("must not contain the character NUL")
        return text


class Id(fields.String):
    """An id as the service writes them: a lower-case UUID."""

    def __init__(self, **options: Any):
        described = {"format": "uuid", "pattern": _ID, **options.pop("metadata", {})}
        super().__init__(validate=_check_id, metadata=described, **options)


def name_unknown(messages: Any, schema: Schema) -> None:
    """Say "did you mean" in ``messages`` about fields that ``schema`` or a schema nested in it lacks.

    Only the first ones get a suggestion: a body may have a million unknown fields.
    """
    if not isinstance(messages, dict):
        return
    known = {field.data_key or name: field for name, field in schema.load_fields.items()}
    unknown = [name for name, found in messages.items() if found == [schema.error_messages["unknown"]]]
    for name in unknown[:_SUGGESTIONS]:
        messages[name] = [f"unknown field; {suggestion(str(name), known, 'fields')}"]
    for name, field in known.items():
        if isinstance(field, fields.Nested):
            name_unknown(messages.get(name), field.schema)


def _check_id(value: str) -> None:
    # fullmatch, because '$' also matches before a line feed
    if not re.fullmatch(_ID[1:-1], value):
        raise ValidationError("must be an id: a UUID in lower case, as the service gives them out")


class Whole(fields.Integer):
    """A whole JSON number, written as 3 or as 3.0; unlike marshmallow's Integer not the text of one."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, str) or (isinstance(value, float) and not value.is_integer()):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class Number(fields.Float):
    """A JSON number; unlike marshmallow's Float not the text of one."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, str):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class Object(fields.Dict):
    """A JSON object of the caller's own making: at most ``most`` bytes as JSON and ``deep`` levels."""

    def __init__(self, *, most: int = 16 * 1024, deep: int = 16, **options: Any):
        super().__init__(**options)
        self.most = most
        self.deep = deep

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValidationError("must be an object")
        if _size(value, self.deep) > self.most:
            raise ValidationError(f"must be smaller than {self.most} bytes")
        return value


def _size(value: Any, deep: int) -> int:
    """Rough size of a JSON value in bytes. Raises ValidationError when it is nested too deeply."""
    if deep < 0:
        raise ValidationError("is nested too deeply")
    if isinstance(value, str):
        return len(value.encode()) + 3
    if isinstance(value, Mapping):
        return 2 + sum(_size(key, deep) + _size(item, deep - 1) for key, item in value.items())
    if isinstance(value, list):
        return 2 + sum(_size(item, deep - 1) for item in value)
    return 8


class Base64(fields.String):
    """Bytes as base64 text: at least ``least`` of them, or ``exactly`` so many."""

    def __init__(self, *, least: int = 0, exactly: int | None = None, **options: Any):
        described = {"format": "byte", "pattern": _BASE64, "minLength": -(-least // 3) * 4}
        super().__init__(metadata={**described, **options.pop("metadata", {})}, **options)
        self.least = least
        self.exactly = exactly

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        (decoded,) = decode_all([value])
        if len(decoded) < self.least:
            raise ValidationError(f"must hold at least {self.least} bytes")
        if self.exactly is not None and len(decoded) != self.exactly:
            raise ValidationError(f"must hold {self.exactly} bytes, not {len(decoded)}")
        return decoded


class Payloads(fields.List):
    """The calls of a submission: a list of base64 texts, decoded together.

    marshmallow's List would spend ten times longer on each of ten thousand small items than decoding takes.
    """

    def __init__(self, **options: Any):
        item = fields.String(metadata={"format": "byte", "pattern": _BASE64})
        super().__init__(item, validate=validate.Length(1, MAX_CALLS_PER_SUBMISSION), **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, list):
            raise ValidationError("must be a list")
        if len(value) > MAX_CALLS_PER_SUBMISSION:  # do not decode what will be refused
            raise ValidationError(f"must have 1 to {MAX_CALLS_PER_SUBMISSION} items")
        if value and isinstance(value[0], bytes):
            return value  # they came as bytes, in a parcel
        return decode_all(value)


def decode_all(texts: list[Any]) -> list[bytes]:
    """Decode base64 texts strictly. Raises ValidationError, naming the first that is none."""
    a2b = binascii.a2b_base64
    try:
        decoded = [a2b(text) for text in texts]
        # the decoder skips what is not of its alphabet; then less comes out than the length promises
        promised = [len(text) // 4 * 3 - text.endswith("=") - text.endswith("==") for text in texts]
        if promised == list(map(len, decoded)) and not any(len(text) & 3 for text in texts):
            return decoded
    except (ValueError, TypeError, AttributeError):
        pass
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not re.fullmatch(_BASE64[1:-1], text):
            raise ValidationError(
                {number: ["must be base64 text with padding"]} if len(texts) > 1 else "must be base64"
            )
    raise ValidationError("must be base64")
