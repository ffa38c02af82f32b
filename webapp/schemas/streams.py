"""What tasks yield, as the API shows it."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from umbel.protocol.limits import MAX_STREAM_ITEMS, MAX_WAIT
from umbel.protocol.states import TaskState


class ItemsQuery(Schema):
    """From which item on, and how long to wait for it."""

    after = fields.Integer(
        load_default=0,
        validate=validate.Range(0, MAX_STREAM_ITEMS),
        metadata={"description": "The `cursor` of the answer before; 0: from the first item."},
    )
    run = fields.Integer(
        load_default=None,
        validate=validate.Range(0, 2**15 - 1),
        metadata={"description": "The `run` that `after` is counted in; of another one all is answered."},
    )
    wait = fields.Float(
        load_default=0.0,
        validate=validate.Range(0, MAX_WAIT),
        metadata={"description": "Seconds to wait when there is nothing new yet."},
    )
    limit = fields.Integer(
        load_default=1000,
        validate=validate.Range(1, 1000),
        metadata={"description": "Most items of one answer; it also ends after about 6 MiB."},
    )


class Items(Schema):
    """What a task yielded, in its order."""

    task_id = fields.String(required=True)
    state = fields.String(required=True, validate=validate.OneOf([state.value for state in TaskState]))
    run = fields.Integer(
        required=True,
        metadata={
            "description": "Which start of the task yielded it: 0 if none has, 1, and one more each time "
            "that another start's items took the place of the ones before."
        },
    )
    items = fields.List(fields.String(), required=True, metadata={"description": "base64"})
    cursor = fields.Integer(required=True, metadata={"description": "`after` of the next request."})
    total = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "How many items there are, once the call has ended and said so."},
    )
    ended = fields.Boolean(
        required=True,
        metadata={"description": "Nothing will follow; if `cursor` is less than `total`, items were lost."},
    )
