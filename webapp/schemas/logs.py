"""Output of tasks."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from umbel.protocol.limits import MAX_WAIT
from umbel.protocol.states import TaskState

from .common import about


class LogQuery(Schema):
    """Which output to return, and how long to wait for more."""

    offset = fields.Integer(
        load_default=0,
        validate=validate.Range(0, 2**62),
        metadata=about("Value of `offset` in the previous response, in bytes; 0: start at the beginning."),
    )
    attempt = fields.Integer(
        load_default=None,
        validate=validate.Range(0, 2**15),
        metadata=about(
            "Value of `attempt` in the previous response, to which `offset` refers. If the output is of "
            "another attempt, all of it is returned."
        ),
    )
    wait = fields.Float(
        load_default=0.0,
        validate=validate.Range(0, MAX_WAIT),
        metadata=about(f"Seconds to wait for new output, 0 to {MAX_WAIT:g}."),
    )


class Log(Schema):
    """Output of a task: standard output and standard error, in the order in which they were written."""

    task_id = fields.String(required=True, metadata=about("Id of the task."))
    state = fields.String(
        required=True,
        validate=validate.OneOf([state.value for state in TaskState]),
        metadata=about("State of the task."),
    )
    attempt = fields.Integer(required=True, metadata=about("Attempt that wrote the output."))
    text = fields.String(
        required=True,
        metadata=about("Output after `offset`; a line marks where bytes were not kept."),
    )
    offset = fields.Integer(
        required=True, metadata=about("Value of `offset` for the next request, in bytes.")
    )
    size = fields.Integer(required=True, metadata=about("Bytes written so far, including those not kept."))
    ended = fields.Boolean(required=True, metadata=about("True if no more output will follow."))
