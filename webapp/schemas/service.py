"""The service itself."""

from __future__ import annotations

from marshmallow import Schema, fields, validate


class Health(Schema):
    """Whether the service is well."""

    status = fields.String(required=True, validate=validate.OneOf(["ok", "degraded"]))
    database = fields.String(required=True)
    broker = fields.String(required=True)
    collector_lag = fields.Float(
        required=True, allow_none=True, metadata={"description": "Seconds since a collector showed itself."}
    )
    reports_waiting = fields.Integer(
        required=True, allow_none=True, metadata={"description": "Reports that nobody has taken yet."}
    )
    version = fields.String(required=True)
    protocol = fields.Integer(required=True)


class Version(Schema):
    """Versions of the product and of its protocol."""

    version = fields.String(required=True)
    protocol = fields.Integer(required=True)


class Whoami(Schema):
    """The user whom the token belongs to."""

    id = fields.String(required=True)
    name = fields.String(required=True)
