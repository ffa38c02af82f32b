"""Groups of tasks and their results."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from federation.registry.pagination import MAX_LIMIT
from umbel.protocol.limits import MAX_WAIT

from .common import TIME
from .tasks import Result


class Group(Schema):
    """A group with its tasks counted by state."""

    id = fields.String(required=True)
    created = fields.Float(required=True, metadata={"description": TIME})
    total = fields.Integer(required=True)
    states = fields.Dict(keys=fields.String(), values=fields.Integer(), required=True)
    finished = fields.Boolean(required=True, metadata={"description": "No task is left to wait for."})


class Cancelled(Schema):
    """How many tasks were cancelled."""

    cancelled = fields.Integer(required=True)


class ResultsQuery(Schema):
    """Which results, and how long to wait for the first."""

    after = fields.Integer(
        load_default=0,
        validate=validate.Range(0, 2**62),
        metadata={"description": "The `cursor` of the answer before; 0: from the first."},
    )
    wait = fields.Float(
        load_default=0.0,
        validate=validate.Range(0, MAX_WAIT),
        metadata={"description": "Seconds to wait when there is nothing yet."},
    )
    limit = fields.Integer(
        load_default=MAX_LIMIT,
        validate=validate.Range(1, MAX_LIMIT),
        metadata={"description": "Most results of one answer; it also ends at about 8 MiB."},
    )


class Results(Schema):
    """Results in the order in which the tasks ended."""

    results = fields.List(fields.Nested(Result), required=True)
    cursor = fields.Integer(required=True, metadata={"description": "`after` of the next request."})
    live = fields.Integer(
        required=True, metadata={"description": "0 when the group has no task left to wait for."}
    )
