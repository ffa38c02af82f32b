"""Tasks: submissions, their options, and what became of them."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, post_load, validate

from federation.db.options import Options
from umbel.protocol.limits import DEFAULT_MAX_ATTEMPTS, MAX_CALLS_PER_SUBMISSION, MAX_CORES, MAX_WAIT
from umbel.protocol.run_options import BOUNDS
from umbel.protocol.states import TaskState

from .common import TIME, PageQuery, page_of
from .fields import Id, Number, Payloads, Text, Whole

_STATES = [state.value for state in TaskState]
_DAY = 86400.0
_POSITIVE: dict[str, Any] = {"min": 0, "min_inclusive": False}
_ABOVE_0 = {"exclusiveMinimum": 0}


class OptionsIn(Schema):
    """Options of a submission; they hold for each of its calls. Times in seconds, sizes in bytes."""

    timeout = Number(
        allow_none=True,
        validate=validate.Range(*BOUNDS["timeout"], min_inclusive=False),
        metadata={"description": "Run time after which a call ends with TIMEOUT.", **_ABOVE_0},
    )
    memory = Whole(
        allow_none=True,
        validate=validate.Range(*BOUNDS["memory"]),
        metadata={"description": "Memory above which a call ends with MEMORY_LIMIT."},
    )
    cpu = Number(
        allow_none=True,
        validate=validate.Range(*BOUNDS["cpu"], min_inclusive=False),
        metadata={"description": "Processor time after which a call ends with TIMEOUT.", **_ABOVE_0},
    )
    output = Whole(
        allow_none=True,
        validate=validate.Range(*BOUNDS["output"]),
        metadata={"description": "Bytes kept of what a call writes to standard output and error."},
    )
    open_files = Whole(
        allow_none=True,
        validate=validate.Range(*BOUNDS["open_files"]),
        metadata={"description": "Files and sockets that a call may have open."},
    )
    expires = Number(
        allow_none=True,
        validate=validate.Range(**_POSITIVE, max=366 * _DAY),
        metadata={
            "description": "Time in the queue after which a call that has not started expires.",
            **_ABOVE_0,
        },
    )
    retries = Whole(
        validate=validate.Range(0, 100),
        metadata={"description": "How often a call that raised is run again.", "default": 0},
    )
    retry_on = fields.List(
        Text(least=1, most=256),
        validate=validate.Length(max=32),
        metadata={
            "description": "Only for these exceptions (`ValueError`, `package.Error`); empty: for all."
        },
    )
    priority = Whole(
        validate=validate.Range(-100, 100),
        metadata={"description": "Higher goes first among the user's own calls.", "default": 0},
    )
    max_attempts = Whole(
        validate=validate.Range(1, 100),
        metadata={
            "description": "How often a call is started at most when workers die under it.",
            "default": DEFAULT_MAX_ATTEMPTS,
        },
    )
    tags = fields.List(Text(least=1, most=64), validate=validate.Length(max=32))
    cores = Whole(
        validate=validate.Range(1, MAX_CORES),
        metadata={"description": "Slots of one node that each call occupies while it runs.", "default": 1},
    )

    @post_load
    def _build(self, values: dict[str, Any], **_: Any) -> Options:
        for name in ("retry_on", "tags"):
            if name in values:
                values[name] = tuple(values[name])
        return Options(**values)


class SubmissionIn(Schema):
    """Calls of one function on one endpoint."""

    function_id = Id(required=True)
    endpoint_id = fields.String(
        required=True,
        validate=validate.Regexp(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z"),
        metadata={
            "description": "Id or name of the endpoint.",
            "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
            "example": "local",
        },
    )
    group_id = Id(
        allow_none=True,
        metadata={
            "description": "Group that the tasks join; one that does not exist is made with this id. "
            "Without it a new one is made."
        },
    )
    payloads = Payloads(
        required=True,
        metadata={
            "description": f"Serialized arguments, an item per call, 1 to {MAX_CALLS_PER_SUBMISSION} of them."
        },
    )
    options = fields.Nested(OptionsIn)


class SubmissionHeaders(Schema):
    """How a repeated submission is recognised."""

    key = Text(
        data_key="Idempotency-Key",
        least=1,
        most=128,
        metadata={
            "description": "A repeated request with the same key and body gets the first one's answer "
            "and submits nothing."
        },
    )


class Accepted(Schema):
    """Tasks that were accepted, in the order of the payloads. They will be run."""

    group_id = fields.String(required=True)
    task_ids = fields.List(fields.String(), required=True)


class TaskQuery(PageQuery):
    """Which tasks."""

    state = fields.String(validate=validate.OneOf(_STATES))
    function_id = Id()
    endpoint_id = fields.String(
        validate=validate.Regexp(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z"),
        metadata={"description": "Id or name.", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"},
    )
    group_id = Id()
    since = fields.Float(
        validate=validate.Range(0, 1e11), metadata={"description": f"Submitted then or later. {TIME}"}
    )
    until = fields.Float(
        validate=validate.Range(0, 1e11), metadata={"description": f"Submitted before. {TIME}"}
    )


def _time() -> fields.Float:
    return fields.Float(required=True, allow_none=True, metadata={"description": TIME})


class Ending(Schema):
    """How a task ended."""

    state = fields.String(required=True, validate=validate.OneOf(_STATES))
    code = fields.String(
        required=True, allow_none=True, metadata={"description": "Why it failed: a code for programs."}
    )
    message = fields.String(required=True, allow_none=True, metadata={"description": "The same for people."})
    completion = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "Its number among the finished tasks of its group."},
    )
    node = fields.String(required=True, allow_none=True, metadata={"description": "Worker node that ran it."})
    queued = fields.Float(
        required=True,
        allow_none=True,
        metadata={"description": "Seconds from its submission to its start, by two clocks."},
    )
    started = _time()
    finished = _time()
    wall = fields.Float(required=True, allow_none=True, metadata={"description": "Seconds that it ran."})
    usage = fields.Dict(
        required=True,
        allow_none=True,
        metadata={
            "description": "Where it ran: `host`, `pid`, `slot`. And unless it was very short, what it used: "
            "`cpu`, `user`, `system` (seconds), `max_rss`, `read`, `written` (bytes)."
        },
    )


class Task(Ending):
    """A task as it is just now."""

    id = fields.String(required=True)
    group_id = fields.String(required=True)
    function_id = fields.String(required=True)
    function_name = fields.String(required=True)
    endpoint_id = fields.String(required=True)
    attempt = fields.Integer(required=True, metadata={"description": "How often it was sent to be run."})
    retried = fields.Integer(
        required=True, metadata={"description": "How often it raised and was run again."}
    )
    priority = fields.Integer(required=True)
    created = fields.Float(required=True, metadata={"description": TIME})
    expires = _time()
    dispatched = _time()
    options = fields.Dict(required=True, metadata={"description": "Options that differ from the defaults."})
    tags = fields.List(fields.String(), required=True)
    result_size = fields.Integer(
        required=True, allow_none=True, metadata={"description": "Bytes of the serialized result."}
    )


class Result(Ending):
    """How a task ended and what it returned or raised."""

    task_id = fields.String(required=True)
    result = fields.String(
        required=True, allow_none=True, metadata={"description": "Serialized result, base64."}
    )
    exception = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Description of the exception (JSON), base64."},
    )


TaskPage = page_of(Task)


class LogQuery(Schema):
    """From where on, and how long to wait for more."""

    offset = fields.Integer(
        load_default=0,
        validate=validate.Range(0, 2**62),
        metadata={"description": "The `offset` of the answer before; 0: from the beginning."},
    )
    attempt = fields.Integer(
        load_default=None,
        validate=validate.Range(0, 2**15),
        metadata={"description": "The `attempt` that the offset is of; of another one all is answered."},
    )
    wait = fields.Float(
        load_default=0.0,
        validate=validate.Range(0, MAX_WAIT),
        metadata={"description": "Seconds to wait when there is nothing new yet."},
    )


class Log(Schema):
    """What a task wrote to standard output and error, in the order in which it did."""

    task_id = fields.String(required=True)
    state = fields.String(required=True, validate=validate.OneOf(_STATES))
    attempt = fields.Integer(required=True, metadata={"description": "The try that wrote it."})
    text = fields.String(
        required=True, metadata={"description": "From `offset` on; a line marks omitted bytes."}
    )
    offset = fields.Integer(required=True, metadata={"description": "`offset` of the next request."})
    size = fields.Integer(required=True, metadata={"description": "Bytes that it wrote so far."})
    ended = fields.Boolean(required=True, metadata={"description": "Nothing will follow."})
