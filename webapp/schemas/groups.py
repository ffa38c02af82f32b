"""Groups of tasks and their results."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from federation.registry.pagination import MAX_LIMIT
from umbel.protocol.limits import MAX_WAIT

from .common import about, started_field, time_field
from .tasks import Result


class Group(Schema):
    """A group with the number of its tasks by state."""

    id = fields.String(required=True, metadata=about("Id of the group, a UUID."))
    created = time_field("When it was created")
    total = fields.Integer(required=True, metadata=about("Number of its tasks."))
    states = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        required=True,
        metadata=about("Number of tasks by state; states without tasks are omitted."),
    )
    finished = fields.Boolean(required=True, metadata=about("True if all its tasks have finished."))


class CancelQuery(Schema):
    """Which tasks of a group to cancel."""

    started = started_field()


class ResultsQuery(Schema):
    """Which results to return, and how long to wait for the first."""

    after = fields.Integer(
        load_default=0,
        validate=validate.Range(0, 2**62),
        metadata=about("Value of `cursor` in the previous response; 0: start with the first result."),
    )
    epoch = fields.String(
        load_default=None,
        validate=validate.Length(max=100),
        metadata=about("Value of `epoch` in that response; if the epoch has changed, `after` counts as 0."),
    )
    wait = fields.Float(
        load_default=0.0,
        validate=validate.Range(0, MAX_WAIT),
        metadata=about(f"Seconds to wait for the first result, 0 to {MAX_WAIT:g}."),
    )
    limit = fields.Integer(
        load_default=MAX_LIMIT,
        validate=validate.Range(1, MAX_LIMIT),
        metadata=about(
            f"Maximum number of results per response, 1 to {MAX_LIMIT}; it also ends at about 8 MiB."
        ),
    )


class Results(Schema):
    """Results in the order in which the tasks finished."""

    results = fields.List(
        fields.Nested(Result), required=True, metadata=about("Results; empty: none within `wait` seconds.")
    )
    cursor = fields.Integer(required=True, metadata=about("Value of `after` for the next request."))
    live = fields.Integer(required=True, metadata=about("Number of unfinished tasks of the group."))
    epoch = fields.String(
        required=True,
        metadata=about(
            "Value of `epoch` for the next request. It changes when the database was restored to an earlier "
            "state: the response then starts with the first result."
        ),
    )
