"""Tasks: submissions, their options, states and results."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, post_load, validate

from federation.db.options import Options
from umbel.protocol.limits import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_OUTPUT_BYTES,
    MAX_CALLS_PER_SUBMISSION,
    MAX_CORES,
    MAX_OUTPUT_BYTES,
    MAX_PAYLOAD_BYTES,
)
from umbel.protocol.run_options import BOUNDS, ISOLATIONS
from umbel.protocol.states import TaskState

from .common import PageQuery, about, page_of, started_field, time_field
from .fields import Id, Number, Payloads, StrictBoolean, StrictInteger, Text

_STATES = [state.value for state in TaskState]
_DAY = 86400.0
_POSITIVE: dict[str, Any] = {"min": 0, "min_inclusive": False}
_ABOVE_0 = {"exclusiveMinimum": 0}


class OptionsIn(Schema):
    """Options of a submission; they apply to each of its tasks. Times in seconds, sizes in bytes."""

    timeout = Number(
        allow_none=True,
        validate=validate.Range(*BOUNDS["timeout"], min_inclusive=False),
        metadata=about("Run time in seconds after which a task fails with TIMEOUT.", **_ABOVE_0),
    )
    memory = StrictInteger(
        allow_none=True,
        validate=validate.Range(*BOUNDS["memory"]),
        metadata=about("Memory in bytes above which a task fails with MEMORY_LIMIT; at least 1 MiB."),
    )
    cpu = Number(
        allow_none=True,
        validate=validate.Range(*BOUNDS["cpu"], min_inclusive=False),
        metadata=about("Processor time in seconds after which a task fails with TIMEOUT.", **_ABOVE_0),
    )
    output = StrictInteger(
        allow_none=True,
        validate=validate.Range(*BOUNDS["output"]),
        metadata=about(
            "Bytes of standard output and standard error to keep, "
            f"at most {MAX_OUTPUT_BYTES:,}. Default: {DEFAULT_OUTPUT_BYTES:,}."
        ),
    )
    open_files = StrictInteger(
        allow_none=True,
        validate=validate.Range(*BOUNDS["open_files"]),
        metadata=about("Files and sockets that a task may have open at the same time."),
    )
    isolation = fields.String(
        validate=validate.OneOf(ISOLATIONS),
        metadata=about("process: each task runs in a process of its own."),
    )
    nested = StrictBoolean(
        metadata=about(
            "true: while it runs, each task may submit further tasks as you, if its endpoint allows it.",
            default=False,
        ),
    )
    expires = Number(
        allow_none=True,
        validate=validate.Range(**_POSITIVE, max=366 * _DAY),
        metadata=about(
            "Seconds after which a task that has not started expires; at most 366 days.", **_ABOVE_0
        ),
    )
    retries = StrictInteger(
        validate=validate.Range(0, 100),
        metadata=about("How often a task that raised an exception is run again, 0 to 100.", default=0),
    )
    retry_on = fields.List(
        Text(min_length=1, max_length=256),
        validate=validate.Length(max=32),
        metadata=about(
            "Names of the exceptions to retry on (`ValueError`, `package.Error`), at most 32; empty: all."
        ),
    )
    priority = StrictInteger(
        validate=validate.Range(-100, 100),
        metadata=about(
            "Priority among your own tasks, -100 to 100; tasks with higher priority run first.", default=0
        ),
    )
    max_attempts = StrictInteger(
        validate=validate.Range(1, 100),
        metadata=about(
            "Maximum number of starts of a task whose workers are lost, 1 to 100.",
            default=DEFAULT_MAX_ATTEMPTS,
        ),
    )
    tags = fields.List(
        Text(min_length=1, max_length=64),
        validate=validate.Length(max=32),
        metadata=about("Labels, at most 32 of at most 64 characters each."),
    )
    cores = StrictInteger(
        validate=validate.Range(1, MAX_CORES),
        metadata=about(f"Slots of one node that each task occupies, 1 to {MAX_CORES}.", default=1),
    )

    @post_load
    def _build(self, values: dict[str, Any], **_: Any) -> Options:
        for name in ("retry_on", "tags"):
            if name in values:
                values[name] = tuple(values[name])
        return Options(**values)


class SubmissionIn(Schema):
    """Calls of one function on one endpoint."""

    function_id = Id(required=True, metadata=about("Id of the function."))
    endpoint_id = fields.String(
        required=True,
        validate=validate.Regexp(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z"),
        metadata=about(
            "Id or name of the endpoint.", pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$", example="local"
        ),
    )
    group_id = Id(
        allow_none=True,
        metadata=about(
            "Id of the group to add the tasks to; created if it does not exist. Default: a new group."
        ),
    )
    payloads = Payloads(
        required=True,
        metadata=about(
            f"Serialized arguments, base64, one item per task: 1 to {MAX_CALLS_PER_SUBMISSION} items of at "
            f"most {MAX_PAYLOAD_BYTES // 1024**2} MiB each."
        ),
    )
    options = fields.Nested(OptionsIn, metadata=about("Options; omitted ones have defaults."))


class SubmissionHeaders(Schema):
    """Headers of a submission."""

    key = Text(
        data_key="Idempotency-Key",
        min_length=1,
        max_length=128,
        metadata=about(
            "Key of the request, at most 128 characters. A repeated request with the same key and body "
            "returns the first response and submits nothing."
        ),
    )


class Accepted(Schema):
    """Tasks that were accepted."""

    group_id = fields.String(required=True, metadata=about("Id of the group of the tasks."))
    task_ids = fields.List(
        fields.String(), required=True, metadata=about("Ids of the tasks, in the order of the payloads.")
    )


class CallToken(Schema):
    """A token for the call of a running task."""

    token = fields.String(required=True, metadata=about("The token, `umb_…`; it cannot be read again."))
    expires = time_field("When it expires at the latest")


class CancelIn(Schema):
    """Which tasks to cancel."""

    task_ids = fields.List(
        Id(),
        required=True,
        validate=validate.Length(0, MAX_CALLS_PER_SUBMISSION),
        metadata=about("Ids of tasks. Ids of tasks that do not exist are ignored."),
    )
    started = started_field(StrictBoolean)


class TaskQuery(PageQuery):
    """Which tasks to list."""

    state = fields.String(validate=validate.OneOf(_STATES), metadata=about("Only tasks in this state."))
    function_id = Id(metadata=about("Only tasks of this function."))
    endpoint_id = fields.String(
        validate=validate.Regexp(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z"),
        metadata=about(
            "Only tasks of this endpoint (id or name).", pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
        ),
    )
    group_id = Id(metadata=about("Only tasks of this group."))
    since = fields.Float(
        validate=validate.Range(0, 1e11),
        metadata=about("Only tasks submitted at this time or later, in seconds since 1970-01-01 UTC."),
    )
    until = fields.Float(
        validate=validate.Range(0, 1e11),
        metadata=about("Only tasks submitted before this time, in seconds since 1970-01-01 UTC."),
    )


class Outcome(Schema):
    """State of a task, and how it finished."""

    state = fields.String(
        required=True, validate=validate.OneOf(_STATES), metadata=about("State of the task.")
    )
    code = fields.String(
        required=True,
        allow_none=True,
        metadata=about("Error code of a failed task, for programs; null: it has not failed."),
    )
    message = fields.String(
        required=True, allow_none=True, metadata=about("Error message for people; null: there is none.")
    )
    completion = fields.Integer(
        required=True,
        allow_none=True,
        metadata=about("Number of the task among the finished tasks of its group; null: not finished."),
    )
    node = fields.String(
        required=True, allow_none=True, metadata=about("Worker node that ran the task; null: none has.")
    )
    queued = fields.Float(
        required=True,
        allow_none=True,
        metadata=about(
            "Seconds from submission to start, measured with the clocks of two machines; null: not started."
        ),
    )
    started = time_field("When it started", null="not started")
    finished = time_field("When it finished", null="not finished")
    wall = fields.Float(
        required=True, allow_none=True, metadata=about("Run time in seconds; null: not known.")
    )
    usage = fields.Dict(
        required=True,
        allow_none=True,
        metadata=about(
            "Where the task ran: `host`, `pid`, `slot`. Unless it was very short, also its resource usage: "
            "`cpu`, `user`, `system` (seconds), `max_rss`, `read`, `written` (bytes). If local "
            "packages travelled with it, `local`: by package, `node` (its own copy was used) or `sent`."
        ),
    )


class Task(Outcome):
    """Current state of a task."""

    id = fields.String(required=True, metadata=about("Id of the task, a UUID."))
    group_id = fields.String(required=True, metadata=about("Id of its group."))
    function_id = fields.String(required=True, metadata=about("Id of its function."))
    function_name = fields.String(required=True, metadata=about("Name of its function."))
    endpoint_id = fields.String(required=True, metadata=about("Id of its endpoint."))
    attempt = fields.Integer(required=True, metadata=about("How often it was sent to a worker."))
    retried = fields.Integer(
        required=True, metadata=about("How often it was run again after it raised an exception.")
    )
    priority = fields.Integer(required=True, metadata=about("Priority, -100 to 100."))
    created = time_field("When it was submitted")
    expires = time_field("When it expires if it has not started", null="never")
    dispatched = time_field("When it was last sent to the endpoint's queue", null="not sent")
    options = fields.Dict(required=True, metadata=about("Options that differ from the defaults."))
    tags = fields.List(fields.String(), required=True, metadata=about("Labels of the submission."))
    result_size = fields.Integer(
        required=True, allow_none=True, metadata=about("Size of the serialized result in bytes; null: none.")
    )


class Result(Outcome):
    """Result of a finished task."""

    task_id = fields.String(required=True, metadata=about("Id of the task."))
    result = fields.String(
        required=True, allow_none=True, metadata=about("Serialized return value, base64; null: none.")
    )
    exception = fields.String(
        required=True,
        allow_none=True,
        metadata=about("Description of the exception (JSON), base64; null: none."),
    )


TaskPage = page_of(Task)
