"""The service itself."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from .common import about


class Health(Schema):
    """Health of the service and its parts."""

    status = fields.String(
        required=True,
        validate=validate.OneOf(["ok", "degraded", "starting"]),
        metadata=about("`ok` if all parts work; `starting` until `up` has started them all."),
    )
    database = fields.String(required=True, metadata=about("`ok` or `unreachable`."))
    broker = fields.String(
        required=True, metadata=about("`ok`, `unreachable`, `full`, `read-only` or `loading` its data.")
    )
    collector_lag = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("Seconds since the last heartbeat of a collector; null: none is known."),
    )
    reports_waiting = fields.Integer(
        required=True,
        allow_none=True,
        metadata=about("Reports that no collector has processed yet; null: the broker is unreachable."),
    )
    reports_rejected = fields.Integer(
        required=True,
        allow_none=True,
        metadata=about("Reports rejected because of their content; null: the broker is unreachable."),
    )
    version = fields.String(required=True, metadata=about("Version of the service."))
    protocol = fields.Integer(required=True, metadata=about("Version of the protocol."))


class Version(Schema):
    """Versions of the service and of its protocol."""

    version = fields.String(required=True, metadata=about("Version of the service."))
    protocol = fields.Integer(required=True, metadata=about("Version of the protocol."))


class Whoami(Schema):
    """The user of a token."""

    id = fields.String(required=True, metadata=about("Id of the user, a UUID."))
    name = fields.String(required=True, metadata=about("Name of the user."))
