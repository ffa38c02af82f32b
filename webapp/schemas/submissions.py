"""Submissions of tasks, and their options."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, validate

from federation.db.options import Options
from federation.ledger.submit import Submission
from umbel.protocol.limits import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_OUTPUT_BYTES,
    MAX_CALLS_PER_SUBMISSION,
    MAX_CORES,
    MAX_FUNCTIONS_PER_SUBMISSION,
    MAX_OUTPUT_BYTES,
    MAX_PAYLOAD_BYTES,
)
from umbel.protocol.run_options import BOUNDS, ISOLATIONS

from .common import about
from .fields import Id, Number, Payloads, StrictBoolean, StrictInteger, Text

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


class FunctionCalls(Schema):
    """Calls of one function in a submission of several."""

    function_id = Id(required=True, metadata=about("Id of the function."))
    calls = StrictInteger(
        required=True,
        validate=validate.Range(1, MAX_CALLS_PER_SUBMISSION),
        metadata=about("How many of the following payloads are calls of this function."),
    )

    @post_load
    def _build(self, values: dict[str, Any], **_: Any) -> tuple[str, int]:
        return values["function_id"], values["calls"]


class SubmissionIn(Schema):
    """Calls of functions on one endpoint. Either `function_id` or `functions` is required."""

    function_id = Id(metadata=about("Id of the function, if all tasks are calls of one."))
    functions = fields.List(
        fields.Nested(FunctionCalls),
        validate=validate.Length(1, MAX_FUNCTIONS_PER_SUBMISSION),
        metadata=about(
            "Functions and their numbers of calls, in the order of the payloads; the numbers add up to the "
            f"number of payloads. 1 to {MAX_FUNCTIONS_PER_SUBMISSION} items."
        ),
    )
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

    @post_load
    def _build(self, values: dict[str, Any], **_: Any) -> Submission:
        if ("function_id" in values) == ("functions" in values):
            raise ValidationError("must be set, unless 'functions' is", "function_id")
        if sum(calls for _, calls in values.get("functions", ())) not in (0, len(values["payloads"])):
            raise ValidationError("the numbers of calls must add up to the number of payloads", "functions")
        return Submission(**{"function_id": None, **values})


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
