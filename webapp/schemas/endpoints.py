"""Endpoints."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from federation.registry.codes import DEFAULT_LIFETIME, MAX_LIFETIME
from federation.registry.endpoints import PUBLIC_KEY_BYTES
from umbel.protocol.states import EndpointState

from .common import TIME, page_of
from .fields import Base64, Object, Text


class EndpointIn(Schema):
    """An endpoint to register."""

    name = fields.String(
        required=True,
        validate=validate.Regexp(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z"),
        metadata={"pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$", "example": "lab"},
    )
    public_key = Base64(
        required=True,
        exactly=PUBLIC_KEY_BYTES,
        metadata={
            "description": "Raw Ed25519 key (32 bytes) that the endpoint signs its reports with.",
            "pattern": "^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$",
        },
    )
    description = Text(most=4096)
    metadata = Object(metadata={"description": "Whatever helps people; at most 16 KiB."})


class CodeIn(Schema):
    """What a code is for."""

    name = fields.String(
        required=True,
        validate=validate.Regexp(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z"),
        metadata={"pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$", "example": "lab"},
    )
    lifetime = fields.Float(
        validate=validate.Range(min=1, max=MAX_LIFETIME),
        metadata={"description": f"Seconds; default {DEFAULT_LIFETIME:.0f}."},
    )


class Code(Schema):
    """A one-time code, shown once."""

    code = fields.String(required=True)
    name = fields.String(required=True)
    expires = fields.Float(required=True, metadata={"description": TIME})


class EndpointChange(Schema):
    """What may be changed of an endpoint; what is not given stays."""

    description = Text(most=4096)
    metadata = Object(metadata={"description": "Replaces the present metadata; at most 16 KiB."})


class Endpoint(Schema):
    """An endpoint as it is just now."""

    id = fields.String(required=True)
    name = fields.String(required=True)
    description = fields.String(required=True)
    metadata = fields.Dict(required=True)
    created = fields.Float(required=True, metadata={"description": TIME})
    state = fields.String(required=True, validate=validate.OneOf([s.value for s in EndpointState]))
    last_heartbeat = fields.Float(required=True, allow_none=True, metadata={"description": TIME})
    slots_total = fields.Integer(
        required=True, metadata={"description": "Calls that its live nodes run at once."}
    )
    slots_free = fields.Integer(required=True)
    queue = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        required=True,
        metadata={"description": "Unfinished tasks by state."},
    )
    nodes = fields.List(
        fields.Dict(),
        required=True,
        metadata={
            "description": "Worker nodes, live ones first: `name`, `slots`, `busy`, `since`, `seen`, `live`, "
            "and what the node says of itself: `hostname`, `cpu` (model), `cpus`, `memory` (bytes), `gpus`, "
            "`python`, `load` and more. Lists show 20 of each endpoint."
        },
    )
    python = fields.String(required=True, allow_none=True)
    platform = fields.String(required=True, allow_none=True)
    packages = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata={"description": "Versions by name of what is installed on its first node, if it said so."},
    )


class Credentials(Schema):
    """What an endpoint needs to take part; shown once."""

    endpoint_id = fields.String(required=True)
    broker_url = fields.String(required=True)
    service_key = fields.String(
        required=True, metadata={"description": "The service's raw Ed25519 public key, base64."}
    )


class NewEndpoint(Endpoint):
    """A registered endpoint with its credentials."""

    credentials = fields.Nested(Credentials, required=True)


EndpointPage = page_of(Endpoint)
