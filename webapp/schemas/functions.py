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


class Environment(Schema):
    """What a function needs, as its body says: packages and a Python, or an environment of a site by name."""

    digest = fields.String(required=True, metadata={"description": "SHA-256 of its canonical form."})
    requirements = fields.List(fields.String())
    python = fields.String()
    name = fields.String()


class Limits(Schema):
    """What each call of a function may take at most, whatever its submission says."""

    timeout = fields.Float(metadata={"description": "Seconds of run time."})
    memory = fields.Integer(metadata={"description": "Bytes."})
    cpu = fields.Float(metadata={"description": "Seconds of processor time."})
    output = fields.Integer(metadata={"description": "Bytes kept of what a call writes."})
    open_files = fields.Integer(metadata={"description": "Files and sockets open at once."})


class FunctionItem(Schema):
    """A function in a list."""

    id = fields.String(required=True)
    name = fields.String(required=True)
    description = fields.String(required=True)
    sha256 = fields.String(required=True, metadata={"description": "SHA-256 of the body, hexadecimal."})
    size = fields.Integer(required=True, metadata={"description": "Bytes of the body."})
    created = fields.Float(required=True, metadata={"description": TIME})
    environment = fields.Nested(Environment, required=True, allow_none=True)
    limits = fields.Nested(Limits, required=True, allow_none=True)


class Function(FunctionItem):
    """A function."""

    source = fields.String(required=True, allow_none=True)


class Figures(Schema):
    """Figures of one quantity: seconds or bytes."""

    calls = fields.Integer(required=True, metadata={"description": "Calls of the sample that have it."})
    p50 = fields.Float(required=True, metadata={"description": "Half of them need no more."})
    p95 = fields.Float(required=True, metadata={"description": "95 % of them need no more."})
    max = fields.Float(required=True)


class Summary(Schema):
    """What calls of a function used, by a sample of at most 1,000 of the newest."""

    function_id = fields.String(required=True)
    calls = fields.Integer(required=True, metadata={"description": "Calls in the sample."})
    since = fields.Float(
        required=True, allow_none=True, metadata={"description": f"When the oldest of them ended. {TIME}"}
    )
    quantities = fields.Dict(
        keys=fields.String(),
        values=fields.Nested(Figures, allow_none=True),
        required=True,
        metadata={
            "description": "`queued`, `wall`, `cpu`, `user`, `system` (seconds), `max_rss`, `read`, "
            "`written`, `output` (bytes); null where no call of the sample has it."
        },
    )


FunctionPage = page_of(FunctionItem)
