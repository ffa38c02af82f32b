"""Accepts submissions: one request and one transaction for any number of calls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, exists, func, select

from umbel.protocol import limits, names
from umbel.protocol.errors import BadRequest, Conflict, NotFound, TooLarge
from umbel.protocol.states import TaskState

from .. import dispatch
from ..context import Federation
from ..db import arrivals, shared
from ..db.arrivals import Arrival
from ..db.options import Options
from ..db.statements import Statement, insert_into, insert_returning, together
from ..db.tables import endpoints, functions, groups, idempotency, nodes, sites, submissions, tasks
from ..registry.users import User
from .queue_limits import check_limits
from .task_rows import group_not_found


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
    accepted = fed.database.retry_write(
        lambda connection: _accept(connection, fed, user, submission, idempotency_key, fed.clock())
    )
    dispatch.after_commit(fed, accepted.planned, accepted.endpoint_nos, accepted.blobs)
    return accepted.answer


@dataclass(frozen=True)
class _Accepted:
    """A submission that is stored.

    ``answer``: the response. ``endpoint_nos``: its endpoint, unless it was stored earlier. ``planned``:
    bundles to send now. ``blobs``: the new blobs.
    """

    answer: dict[str, Any]
    endpoint_nos: Sequence[int] = ()
    planned: Sequence[dispatch.PlannedBundle] = ()
    blobs: Mapping[int, bytes] = field(default_factory=dict)


def _accept(
    connection: Connection, fed: Federation, user: User, submission: Submission, key: str | None, now: float
) -> _Accepted:
    """Record a submission. Refill the window, unless another transaction has the endpoint's lock."""
    found = _look_up(connection, user, submission, key)
    earlier = _previous_response(found, submission, key)
    if earlier is not None:
        return _Accepted(earlier)
    endpoint_no = _endpoint_no(found, submission.endpoint_id)
    check_limits(connection, fed, user, endpoint_no)
    _check_fits(connection, endpoint_no, submission.options.cores)
    places, blobs = shared.add_payloads(connection, submission.payloads)
    parts = [(_function_no(found, id), calls) for id, calls in submission.parts]
    group_no, group_id = _group(connection, found, user, submission.group_id, now)
    numbers = _Numbers(group_no, user.no, endpoint_no)
    task_ids = _insert(connection, numbers, submission, parts, places, now)
    answer = {"group_id": group_id, "task_ids": task_ids}
    if key is not None:
        stored = {"group_id": group_id, "first": task_ids[0], "count": len(task_ids)}
        values = (user.no, key, submission.digest(), json.dumps(stored), now)
        _add_response.each(connection, ("user_no", "key", "sha256", "answer", "created"), [values])
    arrival = Arrival(user.no, group_no, len(places), submission.options.priority)
    if not shared.lock_free_endpoint(connection, endpoint_no):
        arrivals.add(connection, endpoint_no, arrival)
        return _Accepted(answer, [endpoint_no], (), blobs)
    planned = dispatch.refill(fed, connection, endpoint_no, now, arrival)
    return _Accepted(answer, [endpoint_no], planned, blobs)


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
# the weakest lock that keeps the endpoint from being deleted
_endpoint = (
    select(endpoints.c.no)
    .where(endpoints.c.user_no == bindparam("user"), endpoints.c.deleted.is_(None))
    .with_for_update(read=True, key_share=True)
)
_endpoint_with_id = Statement(lambda d: _endpoint.where(endpoints.c.id == bindparam("endpoint")))
_endpoint_named = Statement(lambda d: _endpoint.where(endpoints.c.name == bindparam("endpoint")))
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
_add_submission = insert_returning(
    submissions, "group_no", "user_no", "endpoint_no", "function_no", "options", "created"
)
_TASK = (
    *("id", "submission_no", "group_no", "user_no", "endpoint_no", "function_no", "state", "priority"),
    *("attempt", "blob_no", "blob_offset", "blob_size", "created", "expires"),
)
_add_tasks = insert_into(tasks, *_TASK)
_add_wide_tasks = insert_into(tasks, *_TASK, "cores")


class _Found(NamedTuple):
    """The rows that a submission refers to, as far as they exist; ``response``: to its idempotency key."""

    functions: dict[str, list[tuple[Any, ...]]]
    endpoint: list[tuple[Any, ...]]
    group: list[tuple[Any, ...]] = []
    response: list[tuple[Any, ...]] = []


class _Numbers(NamedTuple):
    """Row numbers that all tasks of a submission share."""

    group_no: int
    user_no: int
    endpoint_no: int


def _look_up(connection: Connection, user: User, submission: Submission, key: str | None) -> _Found:
    """Read what a submission refers to; its endpoint is not deleted before the transaction ends."""
    find_endpoint = _endpoint_with_id if names.is_id(submission.endpoint_id) else _endpoint_named
    ids = list(dict.fromkeys(id for id, _ in submission.parts))
    asked = [(_find_function, {"user": user.no, "id": id}) for id in ids]
    others = {"endpoint": (find_endpoint, {"user": user.no, "endpoint": submission.endpoint_id})}
    if submission.group_id is not None:
        others["group"] = _find_group, {"id": submission.group_id}
    if key is not None:
        others["response"] = _find_response, {"user": user.no, "key": key}
    rows = together(connection, *asked, *others.values())
    return _Found(dict(zip(ids, rows)), **dict(zip(others, rows[len(ids) :])))


def _previous_response(found: _Found, submission: Submission, key: str | None) -> dict[str, Any] | None:
    if not found.response:
        return None
    row = found.response[0]
    if row[0] != submission.digest():
        raise Conflict(
            f"Idempotency-Key '{key}' was already used for another submission: use a new key",
            code="IDEMPOTENCY_MISMATCH",
        )
    answer: dict[str, Any] = json.loads(row[1])
    if "first" in answer:  # not in a row of an earlier release
        answer["task_ids"] = names.following_ids(answer.pop("first"), answer.pop("count"))
    return answer


def _endpoint_no(found: _Found, id_or_name: str) -> int:
    if not found.endpoint:
        raise NotFound(
            f"endpoint '{id_or_name}' does not exist: 'umbel endpoints' lists yours",
            code="ENDPOINT_NOT_FOUND",
        )
    return int(found.endpoint[0][0])


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
    numbers: _Numbers,
    submission: Submission,
    parts: list[tuple[int, int]],
    places: list[tuple[int, int, int]],
    now: float,
) -> list[str]:
    """Insert a submission and its tasks for each part, (function number, calls); return the tasks' ids."""
    options = submission.options
    common = numbers._asdict() | {"options": options.to_json(), "created": now}
    added = together(connection, *((_add_submission, {"function_no": no, **common}) for no, _ in parts))
    task_ids = names.new_task_ids(len(places), now)
    expires = now + options.expires if options.expires is not None else None
    values = []
    rest = zip(task_ids, places)
    for (function_no, calls), ((submission_no,),) in zip(parts, added):
        same = (submission_no, *numbers, function_no, TaskState.QUEUED.value, options.priority, 0)
        values += [(id, *same, *place, now, expires) for id, place in islice(rest, calls)]
    if options.cores == 1:
        _add_tasks.each(connection, _TASK, values)
    else:
        _add_wide_tasks.each(connection, (*_TASK, "cores"), [(*row, options.cores) for row in values])
    return task_ids


def _function_no(found: _Found, function_id: str) -> int:
    if not found.functions[function_id]:
        raise NotFound(
            f"function '{function_id}' does not exist: register it first (POST /v1/functions)",
            code="FUNCTION_NOT_FOUND",
            details={"function_id": function_id},
        )
    return int(found.functions[function_id][0][0])


def _group(
    connection: Connection, found: _Found, user: User, group_id: str | None, now: float
) -> tuple[int, str]:
    row = found.group[0] if found.group else None
    if row is not None and (row[1] != user.no or user.task_id not in (None, row[2])):
        raise group_not_found(group_id)
    if row is not None and group_id is not None:
        return row[0], group_id
    group_id = group_id or names.new_id()
    group = {"id": group_id, "user_no": user.no, "created": now, "parent": user.task_id}
    return int(_add_group.value(connection, **group)), group_id
