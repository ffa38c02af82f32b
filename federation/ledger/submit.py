"""Accepts submissions: one request and one transaction for any number of calls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import Connection, bindparam, exists, func, select, update

from umbel.protocol import limits, names
from umbel.protocol.errors import BadRequest, Conflict, NotFound, TooLarge, TooMany
from umbel.protocol.states import TaskState

from .. import dispatch
from ..context import Federation
from ..db import shared
from ..db.options import Options
from ..db.statements import Statement, insert_into, insert_returning
from ..db.tables import endpoints, functions, groups, idempotency, loads, nodes, sites, submissions, tasks
from ..registry.users import User
from .task_rows import group_not_found

#: Time after which to submit again when a queue is full, seconds.
RETRY_AFTER = 1.0


@dataclass(frozen=True)
class Submission:
    """Calls on one endpoint.

    ``payloads``: serialized arguments, one per call. ``group_id``: the group of the tasks, created if it does
    not exist; None: a new group. ``function_id``: the function of all calls, or None with ``functions``: ids
    of functions and their numbers of calls, in the order of the payloads.
    """

    function_id: str | None
    endpoint_id: str
    payloads: Sequence[bytes]
    group_id: str | None = None
    options: Options = field(default_factory=Options)
    functions: Sequence[tuple[str, int]] = ()

    @property
    def parts(self) -> Sequence[tuple[str, int]]:
        """The functions and their numbers of calls."""
        return self.functions or [(self.function_id or "", len(self.payloads))]

    def digest(self) -> str:
        """Return the SHA-256 of the complete submission."""
        hasher = hashlib.sha256()
        function = self.parts[0][0] if len(self.parts) == 1 else list(self.parts)
        head = [function, self.endpoint_id, self.group_id, self.options.to_json()]
        hasher.update(json.dumps([head, list(map(len, self.payloads))]).encode())
        hasher.update(b"".join(self.payloads))
        return hasher.hexdigest()


def submit(
    fed: Federation, user: User, submission: Submission, idempotency_key: str | None = None
) -> dict[str, Any]:
    """Accept a submission; return ``{"group_id", "task_ids"}``.

    When this returns, the tasks are on disk and will run. If it raises, nothing was accepted. Repeating a
    submission with the same ``idempotency_key`` returns the first response.

    Raises NotFound (function, endpoint), BadRequest, TooLarge, TooMany (``QUEUE_FULL``), Conflict
    (``IDEMPOTENCY_MISMATCH``).
    """
    _check(submission)
    answer, planned, blobs = fed.database.retry_write(
        lambda connection: _accept(connection, fed, user, submission, idempotency_key, fed.clock())
    )
    dispatch.send(fed, planned, blobs)
    return answer


def _accept(
    connection: Connection, fed: Federation, user: User, submission: Submission, key: str | None, now: float
) -> tuple[dict[str, Any], list[dispatch.PlannedBundle], dict[int, bytes]]:
    """Record a submission; return the response, the bundles to send now, and the new blobs."""
    earlier = _previous_response(connection, user, submission, key)
    if earlier is not None:
        return earlier, [], {}
    endpoint_no, _ = _lock_endpoint(connection, user, submission.endpoint_id)
    _check_limits(connection, fed, user, endpoint_no)
    _check_fits(connection, endpoint_no, submission.options.cores)
    places, blobs = shared.add_payloads(connection, submission.payloads)
    answer = _insert(connection, user, endpoint_no, submission, places, now)
    if key is not None:
        values = (user.no, key, submission.digest(), json.dumps(answer), now)
        _add_response.each(connection, ("user_no", "key", "sha256", "answer", "created"), [values])
    return answer, dispatch.refill(fed, connection, endpoint_no, now), blobs


def _check(submission: Submission) -> None:
    count = len(submission.payloads)
    if not 1 <= count <= limits.MAX_CALLS_PER_SUBMISSION:
        raise BadRequest(
            f"a submission must have 1 to {limits.MAX_CALLS_PER_SUBMISSION} calls, got {count}: split it",
            code="VALIDATION_ERROR",
        )
    if sum(calls for _, calls in submission.parts) != count:
        raise BadRequest(
            f"the functions of the submission have other numbers of calls than its {count} payloads",
            code="VALIDATION_ERROR",
        )
    largest = max(map(len, submission.payloads))
    if largest > limits.MAX_PAYLOAD_BYTES:
        raise TooLarge(
            f"the arguments of one call have {largest} bytes, the limit is {limits.MAX_PAYLOAD_BYTES}: "
            "pass the path of a file or another reference instead",
            details={"size": largest, "limit": limits.MAX_PAYLOAD_BYTES},
        )


_find_response = Statement(
    lambda d: select(idempotency.c.sha256, idempotency.c.answer).where(
        idempotency.c.user_no == bindparam("user"), idempotency.c.key == bindparam("key")
    )
)
_add_response = insert_into(idempotency, "user_no", "key", "sha256", "answer", "created")
_endpoint = (
    select(endpoints.c.no, endpoints.c.id)
    .where(endpoints.c.user_no == bindparam("user"), endpoints.c.deleted.is_(None))
    .with_for_update()
)
_endpoint_with_id = Statement(lambda d: _endpoint.where(endpoints.c.id == bindparam("id")))
_endpoint_named = Statement(lambda d: _endpoint.where(endpoints.c.name == bindparam("name")))
_live = func.coalesce(func.sum(loads.c.live), 0)
_endpoint_live = Statement(lambda d: select(_live).where(loads.c.endpoint_no == bindparam("no")))
_user_live = Statement(lambda d: select(_live).where(loads.c.user_no == bindparam("no")))
_largest = Statement(
    lambda d: select(func.max(nodes.c.slots)).where(
        nodes.c.endpoint_no == bindparam("no"),
        # an elastic endpoint may get nodes of a new size
        ~exists().where(sites.c.endpoint_no == bindparam("no")),
    )
)
_find_function = Statement(
    lambda d: select(functions.c.no).where(
        functions.c.id == bindparam("id"),
        functions.c.user_no == bindparam("user"),
        functions.c.deleted.is_(None),
    )
)
_find_group = Statement(
    lambda d: select(groups.c.no, groups.c.user_no, groups.c.parent).where(groups.c.id == bindparam("id"))
)
_add_group = insert_returning(groups, "id", "user_no", "created", "parent")
_grow_group = Statement(
    lambda d: update(groups)
    .values(size=groups.c.size + bindparam("count"))
    .where(groups.c.no == bindparam("group"))
)
_add_submission = insert_returning(
    submissions, "group_no", "user_no", "endpoint_no", "function_no", "options", "created"
)
_TASK = (
    "id",
    "submission_no",
    "group_no",
    "user_no",
    "endpoint_no",
    "function_no",
    "state",
    "priority",
    "attempt",
    "blob_no",
    "blob_offset",
    "blob_size",
    "created",
    "expires",
)
_add_tasks = insert_into(tasks, *_TASK)
_add_wide_tasks = insert_into(tasks, *_TASK, "cores")


def _previous_response(
    connection: Connection, user: User, submission: Submission, key: str | None
) -> dict[str, Any] | None:
    row = _find_response.first(connection, user=user.no, key=key) if key is not None else None
    if row is None:
        return None
    if row[0] != submission.digest():
        raise Conflict(
            f"Idempotency-Key '{key}' was already used for another submission: use a new key",
            code="IDEMPOTENCY_MISMATCH",
        )
    return dict(json.loads(row[1]))


def _lock_endpoint(connection: Connection, user: User, id_or_name: str) -> tuple[int, str]:
    """Return number and id of an endpoint, locked as by ``shared.lock_endpoints``, so it is not deleted."""
    if names.is_id(id_or_name):
        row = _endpoint_with_id.first(connection, user=user.no, id=id_or_name)
    else:
        row = _endpoint_named.first(connection, user=user.no, name=id_or_name)
    if row is None:
        raise NotFound(
            f"endpoint '{id_or_name}' does not exist: 'umbel endpoints' lists yours",
            code="ENDPOINT_NOT_FOUND",
        )
    return row[0], row[1]


def _check_limits(connection: Connection, fed: Federation, user: User, endpoint_no: int) -> None:
    """Enforce the limits on unfinished tasks per endpoint and per user."""
    settings = fed.settings
    for limit, live, owner in (
        (settings.max_endpoint_calls, _endpoint_live.value(connection, no=endpoint_no), "this endpoint has"),
        (settings.max_user_calls, _user_live.value(connection, no=user.no), "you have"),
    ):
        if live >= limit:
            raise TooMany(
                f"{owner} {live} unfinished tasks, the limit is {limit}: submit again after some finish",
                code="QUEUE_FULL",
                details={"live": live, "limit": limit, "retry_after": RETRY_AFTER},
            )


def _check_fits(connection: Connection, endpoint_no: int, cores: int) -> None:
    """Reject calls that are wider than every node of the endpoint, unless new nodes may be larger."""
    largest = _largest.value(connection, no=endpoint_no) if cores > 1 else None
    if largest is not None and cores > largest:
        slots = "1 slot" if largest == 1 else f"{largest} slots"
        raise Conflict(
            f"option 'cores' is {cores}, but no node of this endpoint has more than {slots}: request fewer, "
            "or use another endpoint",
            details={"cores": cores, "largest": largest},
        )


def _insert(
    connection: Connection,
    user: User,
    endpoint_no: int,
    submission: Submission,
    places: list[tuple[int, int, int]],
    now: float,
) -> dict[str, Any]:
    parts = [(_function(connection, user, id), calls) for id, calls in submission.parts]
    group_no, group_id = _group(connection, user, submission.group_id, now)
    options = submission.options
    count = len(submission.payloads)
    task_ids = names.new_task_ids(count, now)
    expires = now + options.expires if options.expires is not None else None
    values = []
    rest = zip(task_ids, places)
    for function_no, calls in parts:
        submission_no = _add_submission.value(
            connection,
            group_no=group_no,
            user_no=user.no,
            endpoint_no=endpoint_no,
            function_no=function_no,
            options=options.to_json(),
            created=now,
        )
        numbers = (submission_no, group_no, user.no, endpoint_no, function_no)
        common = (*numbers, TaskState.QUEUED.value, options.priority, 0)
        values += [(id, *common, *place, now, expires) for id, place in islice(rest, calls)]
    if options.cores == 1:
        _add_tasks.each(connection, _TASK, values)
    else:
        wide = [(*row, options.cores) for row in values]
        _add_wide_tasks.each(connection, (*_TASK, "cores"), wide)
    shared.change_loads(connection, {(endpoint_no, user.no): shared.Load(live=count)})
    _grow_group.run(connection, count=count, group=group_no)
    return {"group_id": group_id, "task_ids": task_ids}


def _function(connection: Connection, user: User, function_id: str) -> int:
    no = _find_function.value(connection, user=user.no, id=function_id)
    if no is None:
        raise NotFound(
            f"function '{function_id}' does not exist: register it first (POST /v1/functions)",
            code="FUNCTION_NOT_FOUND",
            details={"function_id": function_id},
        )
    return int(no)


def _group(connection: Connection, user: User, group_id: str | None, now: float) -> tuple[int, str]:
    row = _find_group.first(connection, id=group_id) if group_id is not None else None
    if row is not None and (row[1] != user.no or user.task_id not in (None, row[2])):
        raise group_not_found(group_id)
    if row is not None and group_id is not None:
        return row[0], group_id
    group_id = group_id or names.new_id()
    group = {"id": group_id, "user_no": user.no, "created": now, "parent": user.task_id}
    return int(_add_group.value(connection, **group)), group_id
