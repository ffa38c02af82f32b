"""Endpoints."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from federation.registry.codes import DEFAULT_LIFETIME, MAX_LIFETIME
from federation.registry.endpoints import PUBLIC_KEY_BYTES
from umbel.protocol.states import EndpointState

from .common import about, page_of, time_field
from .fields import Base64, Object, Text

_NAME = "1 to 63 letters, digits and `_.-`; starts with a letter or digit."
_NAME_PATTERN = {"pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$", "example": "lab"}


class EndpointIn(Schema):
    """An endpoint to register."""

    name = fields.String(
        required=True,
        validate=validate.Regexp(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z"),
        metadata=about(f"Name of the endpoint, unique among yours: {_NAME}", **_NAME_PATTERN),
    )
    public_key = Base64(
        required=True,
        exactly=PUBLIC_KEY_BYTES,
        metadata=about(
            "Public key for the endpoint's reports: raw Ed25519 key of 32 bytes, base64.",
            pattern="^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$",
        ),
    )
    description = Text(max_length=4096, metadata=about("Description for people; at most 4096 characters."))
    metadata = Object(metadata=about("Any JSON object; at most 16 KiB."))


class CodeIn(Schema):
    """A one-time code to create."""

    name = fields.String(
        required=True,
        validate=validate.Regexp(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z"),
        metadata=about(f"Name of the endpoint that the code may register: {_NAME}", **_NAME_PATTERN),
    )
    lifetime = fields.Float(
        validate=validate.Range(min=1, max=MAX_LIFETIME),
        metadata=about(
            f"Seconds until the code expires, 1 to {MAX_LIFETIME:.0f} (30 days). "
            f"Default: {DEFAULT_LIFETIME:.0f}."
        ),
    )


class Code(Schema):
    """A one-time code."""

    code = fields.String(required=True, metadata=about("The code, `umc_…`; shown only once."))
    name = fields.String(required=True, metadata=about("Name of the endpoint that it may register."))
    expires = time_field("When it expires")


class EndpointChange(Schema):
    """Fields of an endpoint to change; omitted fields stay unchanged."""

    description = Text(
        max_length=4096, metadata=about("New description for people; at most 4096 characters.")
    )
    metadata = Object(metadata=about("JSON object that replaces the metadata; at most 16 KiB."))


class Suspension(Schema):
    """Suspension of an endpoint's broker account."""

    since = time_field("When it was suspended")
    until = time_field("When it may connect again")
    reason = fields.String(required=True, metadata=about("Why it was suspended."))


class Endpoint(Schema):
    """Current state of an endpoint."""

    id = fields.String(required=True, metadata=about("Id of the endpoint, a UUID."))
    name = fields.String(required=True, metadata=about("Name of the endpoint."))
    description = fields.String(required=True, metadata=about("Description for people."))
    metadata = fields.Dict(required=True, metadata=about("Metadata set by its owner."))
    created = time_field("When it was registered")
    state = fields.String(
        required=True,
        validate=validate.OneOf([s.value for s in EndpointState]),
        metadata=about("`online` if at least one worker node is live."),
    )
    suspended = fields.Nested(
        Suspension,
        required=True,
        allow_none=True,
        metadata=about("Why its workers cannot connect to the broker now; null: they can."),
    )
    last_heartbeat = time_field("About when a worker node was last seen", null="never")
    slots_total = fields.Integer(
        required=True, metadata=about("Calls that its live nodes can run concurrently.")
    )
    slots_free = fields.Integer(required=True, metadata=about("Slots that run no call now."))
    queue = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        required=True,
        metadata=about("Number of unfinished tasks by state."),
    )
    nodes = fields.List(
        fields.Dict(),
        required=True,
        metadata=about(
            "Worker nodes, live ones first: `name`, `slots`, `busy`, `since`, `seen`, `live`, and values "
            "reported by the node: `hostname`, `cpu` (model), `cpus`, `memory` (bytes), `gpus`, `python`, "
            "`load`, `clock_ahead` (seconds that its clock is ahead of the broker's) and others that "
            "the service knows. A value of an unexpected type is left out. "
            "In lists of endpoints, at most 20 nodes of each."
        ),
    )
    python = fields.String(
        required=True, allow_none=True, metadata=about("Python version of its first node; null: unknown.")
    )
    platform = fields.String(
        required=True, allow_none=True, metadata=about("Platform of its first node; null: unknown.")
    )
    packages = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata=about("Versions of the packages on its first node, by name; empty: unknown."),
    )


class Credentials(Schema):
    """Credentials of an endpoint; shown only once."""

    endpoint_id = fields.String(required=True, metadata=about("Id of the endpoint."))
    broker_url = fields.String(required=True, metadata=about("URL of the broker with user and password."))
    service_key = fields.String(
        required=True, metadata=about("Public key of the service: raw Ed25519 key, base64.")
    )


class NewEndpoint(Endpoint):
    """A registered endpoint with its credentials."""

    credentials = fields.Nested(
        Credentials, required=True, metadata=about("Credentials of the endpoint; shown only once.")
    )


EndpointPage = page_of(Endpoint)
