"""Functions."""

from __future__ import annotations

from marshmallow import Schema, fields

from .common import TIME, page_of
from .fields import Base64, Text


class FunctionIn(Schema):
    """A function to keep. It never changes afterwards."""

    name = Text(least=1, most=256, required=True)
    body = Base64(
        least=1,
        required=True,
        metadata={"description": "The serialized function; the service never opens it."},
    )
    source = Text(
        most=256 * 1024, allow_none=True, metadata={"description": "Source text, to be shown to people."}
    )
    description = Text(most=4096)


class FunctionItem(Schema):
    """A function in a list."""

    id = fields.String(required=True)
    name = fields.String(required=True)
    description = fields.String(required=True)
    sha256 = fields.String(required=True, metadata={"description": "SHA-256 of the body, hexadecimal."})
    size = fields.Integer(required=True, metadata={"description": "Bytes of the body."})
    created = fields.Float(required=True, metadata={"description": TIME})


class Function(FunctionItem):
    """A function."""

    source = fields.String(required=True, allow_none=True)


FunctionPage = page_of(FunctionItem)
