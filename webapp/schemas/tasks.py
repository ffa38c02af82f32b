"""Tasks: their states and results; see ``submissions``."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from umbel.protocol.limits import MAX_CALLS_PER_SUBMISSION
from umbel.protocol.states import TaskState

from .common import PageQuery, about, page_of, started_field, time_field
from .fields import Id, StrictBoolean

_STATES = [state.value for state in TaskState]


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

    # a cursor begins with a time after 1970, whose first digit is 4; others are not always numbers
    cursor = fields.String(
        validate=validate.Regexp(r"4[0-9a-f]{47}\Z"),
        metadata=about("Value of `next` in the previous page.", pattern="^4[0-9a-f]{47}$"),
    )
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
