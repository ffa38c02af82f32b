"""Functions."""

from __future__ import annotations

from marshmallow import Schema, fields

from umbel.protocol.limits import MAX_FUNCTION_BYTES

from .common import about, page_of, time_field
from .fields import Base64, Text


class FunctionIn(Schema):
    """A function to register. It cannot be changed afterwards."""

    name = Text(
        min_length=1,
        max_length=256,
        required=True,
        metadata=about("Name of the function for people, 1 to 256 characters; need not be unique."),
    )
    body = Base64(
        min_bytes=1,
        required=True,
        metadata=about(
            f"The serialized function, base64, at most {MAX_FUNCTION_BYTES // 1024**2} MiB; never decoded by "
            "the service."
        ),
    )
    source = Text(
        max_length=256 * 1024,
        allow_none=True,
        metadata=about("Source code to show to people; at most 262,144 characters."),
    )
    description = Text(max_length=4096, metadata=about("Description for people; at most 4096 characters."))


class Environment(Schema):
    """Environment that a function needs: packages and a Python version, or a named environment of a site."""

    digest = fields.String(required=True, metadata=about("SHA-256 of the canonical form, hexadecimal."))
    requirements = fields.List(fields.String(), metadata=about("Packages to install, as for pip."))
    python = fields.String(metadata=about("Python version."))
    name = fields.String(metadata=about("Name of an environment that the endpoint defines."))


class Limits(Schema):
    """Limits of each call of a function. If a task has its own limits, the lower ones apply."""

    timeout = fields.Float(metadata=about("Run time in seconds."))
    memory = fields.Integer(metadata=about("Memory in bytes."))
    cpu = fields.Float(metadata=about("Processor time in seconds."))
    output = fields.Integer(metadata=about("Bytes of output to keep."))
    open_files = fields.Integer(metadata=about("Files and sockets that are open at the same time."))
    isolation = fields.String(metadata=about("`process`: each call runs in a process of its own."))


class FunctionItem(Schema):
    """A function in a list."""

    id = fields.String(required=True, metadata=about("Id of the function, a UUID."))
    name = fields.String(required=True, metadata=about("Name of the function."))
    description = fields.String(required=True, metadata=about("Description for people."))
    sha256 = fields.String(required=True, metadata=about("SHA-256 of the body, hexadecimal."))
    size = fields.Integer(required=True, metadata=about("Size of the body in bytes."))
    created = time_field("When it was registered")
    environment = fields.Nested(
        Environment,
        required=True,
        allow_none=True,
        metadata=about("Environment that the function needs; null: that of the endpoint."),
    )
    limits = fields.Nested(
        Limits, required=True, allow_none=True, metadata=about("Limits of each call; null: none.")
    )


class Function(FunctionItem):
    """A function."""

    source = fields.String(
        required=True, allow_none=True, metadata=about("Source code; null: not registered with the function.")
    )
    local = fields.List(
        fields.String(),
        required=True,
        metadata=about(
            "Packages and modules whose code travels with the function, because they are not in the author's "
            "`site-packages`."
        ),
    )


class Statistics(Schema):
    """Statistics of one quantity, in seconds or bytes."""

    calls = fields.Integer(required=True, metadata=about("Calls of the sample with a value."))
    p50 = fields.Float(required=True, metadata=about("Median: half of the calls have at most this value."))
    p95 = fields.Float(
        required=True, metadata=about("95th percentile: 95 % of the calls have at most this value.")
    )
    max = fields.Float(required=True, metadata=about("Largest value."))


class Summary(Schema):
    """Resource usage of a function's calls, from a sample of at most 1,000 recent ones."""

    function_id = fields.String(required=True, metadata=about("Id of the function."))
    calls = fields.Integer(required=True, metadata=about("Calls in the sample."))
    since = time_field("When the oldest call of the sample finished", null="the sample is empty")
    quantities = fields.Dict(
        keys=fields.String(),
        values=fields.Nested(Statistics, allow_none=True),
        required=True,
        metadata=about(
            "Statistics by quantity: `queued`, `wall`, `cpu`, `user`, `system` (seconds), `max_rss`, `read`, "
            "`written`, `output` (bytes); null: no call of the sample has a value."
        ),
    )


FunctionPage = page_of(FunctionItem)
