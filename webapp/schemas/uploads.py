"""Uploads of large request bodies."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from umbel.protocol.limits import MAX_REQUEST_BYTES

from .common import about


class UploadQuery(Schema):
    """Where a part belongs."""

    offset = fields.Integer(
        load_default=0,
        validate=validate.Range(0, MAX_REQUEST_BYTES),
        metadata=about("Position of the part in the body, bytes; what follows it is replaced."),
    )


class Upload(Schema):
    """The state of an upload."""

    id = fields.String(required=True, metadata=about("Id of the upload."))
    size = fields.Integer(required=True, metadata=about("Bytes of the upload so far: the next `offset`."))
