"""Items that tasks yield."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from umbel.protocol.limits import MAX_STREAM_ITEMS, MAX_WAIT
from umbel.protocol.states import TaskState

from .common import about


class ItemsQuery(Schema):
    """Which items to return, and how long to wait for the first."""

    after = fields.Integer(
        load_default=0,
        validate=validate.Range(0, MAX_STREAM_ITEMS),
        metadata=about("Value of `cursor` in the previous response; 0: start with the first item."),
    )
    run = fields.Integer(
        load_default=None,
        validate=validate.Range(0, 2**15 - 1),
        metadata=about(
            "Value of `run` in the previous response, to which `after` refers. If the task has been started "
            "again since, all items of the new run are returned."
        ),
    )
    wait = fields.Float(
        load_default=0.0,
        validate=validate.Range(0, MAX_WAIT),
        metadata=about(f"Seconds to wait for the first item, 0 to {MAX_WAIT:g}."),
    )
    limit = fields.Integer(
        load_default=1000,
        validate=validate.Range(1, 1000),
        metadata=about("Maximum number of items per response, 1 to 1000; it also ends after about 6 MiB."),
    )


class Items(Schema):
    """Items that a task yielded, in order."""

    task_id = fields.String(required=True, metadata=about("Id of the task."))
    state = fields.String(
        required=True,
        validate=validate.OneOf([state.value for state in TaskState]),
        metadata=about("State of the task."),
    )
    run = fields.Integer(
        required=True,
        metadata=about(
            "Number of the run that yielded the items. 0: no item yet; it grows by one each time that the "
            "items of a new run replace those of an earlier one."
        ),
    )
    items = fields.List(fields.String(), required=True, metadata=about("Serialized items, base64."))
    cursor = fields.Integer(required=True, metadata=about("Value of `after` for the next request."))
    total = fields.Integer(
        required=True, allow_none=True, metadata=about("Total number of items; null: not known yet.")
    )
    ended = fields.Boolean(
        required=True,
        metadata=about(
            "True if no more items will follow. If `cursor` is less than `total` then, items were lost."
        ),
    )
