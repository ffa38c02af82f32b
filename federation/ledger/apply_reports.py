"""Applies a batch of reports to the ledger in one transaction."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, select

from umbel.protocol.errors import TASK_CODES
from umbel.protocol.messages import Interruption, OpenReport, Row, Status
from umbel.protocol.states import FINAL, TaskState

from .. import dispatch
from ..context import Federation
from ..db import shared
from ..db.statements import Statement, unindexed
from ..db.tables import bundles
from ..dispatch.run_times import update_run_times
from . import logs, samples, streams
from .completion import Completion, finish_tasks
from .node_rows import node_number, record_goodbye
from .requeue import requeue, requeue_lost
from .starts import as_running, mark_running
from .task_rows import Pair, Task, options_of, tasks_of_endpoint

log = logging.getLogger(__name__)

#: Maximum length of a stored failure message, characters.
MESSAGE_LENGTH = 2000


_INTERRUPTIONS = (Interruption.WALLTIME, Interruption.STOPPED)
_RESULTS = (Status.SUCCEEDED, Status.FAILED)

_bundle_nos = Statement(
    lambda d: select(bundles.c.id, bundles.c.no).where(
        d.among(bundles.c.id, "ids"), unindexed(bundles.c.endpoint_no) == bindparam("endpoint")
    )
)


@dataclass
class ApplyResult:
    """The result of applying a batch of reports.

    ``endpoint_nos``: the endpoints of the reports. ``groups``: last completion number by group id.
    ``planned``: bundles to send. ``updated_tasks``: ids of tasks with new output or items. ``finished``,
    ``dropped``: counts for the log.
    """

    endpoint_nos: set[int] = field(default_factory=set)
    groups: dict[str, int] = field(default_factory=dict)
    planned: list[dispatch.PlannedBundle] = field(default_factory=list)
    updated_tasks: set[str] = field(default_factory=set)
    finished: int = 0
    dropped: int = 0

    def add(self, other: ApplyResult) -> None:
        """Add the result of another batch."""
        self.endpoint_nos.update(other.endpoint_nos)
        self.groups.update(other.groups)
        self.planned += other.planned
        self.updated_tasks.update(other.updated_tasks)
        self.finished += other.finished
        self.dropped += other.dropped


def apply_reports(
    fed: Federation, connection: Connection, reports: Sequence[OpenReport], now: float
) -> ApplyResult:
    """Apply verified reports to the ledger and refill the windows of their endpoints.

    The first terminal report of a task wins; later ones are dropped and counted.
    """
    result = ApplyResult()
    known = shared.lock_endpoints_by_id(connection, (report.endpoint for report in reports))
    result.endpoint_nos.update(known.values())
    for report in reports:
        endpoint_no = known.get(report.endpoint)
        if endpoint_no is None:
            continue  # the endpoint was deleted in the meantime
        if report.goodbye:
            record_goodbye(connection, endpoint_no, report.node, report.instance, now)
        if report.rows:
            node_no = node_number(connection, endpoint_no, report.node, report.instance, now)
            _apply_rows(connection, result, report, endpoint_no, node_no, now)
    for endpoint_no in sorted(known.values()):
        result.planned += dispatch.refill(fed, connection, endpoint_no, now)
    return result


def _apply_rows(
    connection: Connection,
    result: ApplyResult,
    report: OpenReport,
    endpoint_no: int,
    node_no: int,
    now: float,
) -> None:
    found = tasks_of_endpoint(connection, endpoint_no, [row.task_id for row in report.rows])
    if report.logs:
        result.updated_tasks.update(logs.store(connection, report.logs, found))
    superseded = _store_items(connection, result, report, endpoint_no, found) if report.items else ()
    pairs: list[Pair] = []
    for row in report.rows:
        task = found.get(row.task_id)
        if (
            task is None
            or task.state in FINAL
            or (row.attempt > task.attempt and row.attempt > _highest_attempt(task))
            or (superseded and (row.bundle_id, row.task_id) in superseded and row.status in _RESULTS)
        ):
            result.dropped += row.status != Status.RUNNING
            continue
        pairs.append((task, row))
    by_status = _by_status(pairs)
    update_run_times(connection, endpoint_no, ((task.function_no, row) for task, row in pairs), now)
    current = _in_current_bundle(connection, endpoint_no, pairs)
    running = mark_running(connection, [p for p in by_status[Status.RUNNING] if p[0].no in current], node_no)
    by_status = as_running(by_status, running)
    requeue(connection, [t for t, _ in by_status[Status.RETURNED] if t.no in current], counted=False)
    _apply_lost(connection, result, [p for p in by_status[Status.LOST] if p[0].no in current], now)
    failed = by_status[Status.FAILED]
    repeated = _retry(connection, report, failed, current)
    finished = (
        by_status[Status.SUCCEEDED]
        + [p for p in failed if p[0].no not in repeated]
        + by_status[Status.SKIPPED]
    )
    _finish(connection, result, report, finished, node_no, now)


def _highest_attempt(task: Task) -> int:
    """Return the highest attempt that was sent; an uncounted requeue lowers the attempt of a queued task."""
    return task.attempt + (task.state == TaskState.QUEUED)


def _by_status(pairs: list[Pair]) -> dict[str, list[Pair]]:
    """Group pairs by status; if a report ends a call twice, the first row counts."""
    by_status: dict[str, list[Pair]] = defaultdict(list)
    seen: set[str] = set()
    for task, row in pairs:
        if row.status != Status.RUNNING:
            if row.task_id in seen:
                continue
            seen.add(row.task_id)
        by_status[row.status].append((task, row))
    return by_status


def _store_items(
    connection: Connection, result: ApplyResult, report: OpenReport, endpoint_no: int, found: dict[str, Task]
) -> set[tuple[str, str]]:
    """Store yielded items; return (bundle, task) of runs that were superseded, so their end is ignored."""
    ids = sorted({streamed.bundle_id for streamed in report.items})
    numbers = dict(_bundle_nos.rows(connection, ids=ids, endpoint=endpoint_no))
    updated, superseded = streams.store(connection, report.items, found, numbers)
    result.updated_tasks.update(updated)
    return superseded


def _in_current_bundle(connection: Connection, endpoint_no: int, pairs: list[Pair]) -> set[int]:
    """Return the numbers of tasks that the report mentions in their current bundle.

    A result counts from any bundle. All other rows count only if they come from the task's current bundle, so
    a duplicate report, or a late report of an earlier bundle, changes nothing.
    """
    others = [pair for pair in pairs if pair[1].status not in (Status.SUCCEEDED, Status.SKIPPED)]
    if not others:
        return set()
    ids = sorted({row.bundle_id for _, row in others})
    numbers = dict(_bundle_nos.rows(connection, ids=ids, endpoint=endpoint_no))
    return {task.no for task, row in others if numbers.get(row.bundle_id, 0) == task.bundle_no}


def _apply_lost(connection: Connection, result: ApplyResult, lost: list[Pair], now: float) -> None:
    """Requeue calls whose runner terminated; the attempt counts."""
    messages = {
        task.no: _short(row.message) or "the runner process terminated unexpectedly" for task, row in lost
    }
    interruptions = {task.no: row.code for task, row in lost if row.code in _INTERRUPTIONS}
    result.groups.update(requeue_lost(connection, [task for task, _ in lost], now, messages, interruptions))


def _finish(
    connection: Connection,
    result: ApplyResult,
    report: OpenReport,
    finished: list[Pair],
    node_no: int,
    now: float,
) -> None:
    if not finished:
        return
    blob_no = None
    with_bytes = sum(1 for _, row in finished if row.size)
    if with_bytes:
        blob_no = shared.add_blob(connection, report.body, with_bytes)
    places = {bundle: json.dumps(place.record()) for bundle, place in report.places.items()}
    completions = [
        _completion(task, row, node_no, blob_no, _usage(report, row, places)) for task, row in finished
    ]
    samples.record(connection, finished, {each.task_id: each.log.total for each in report.logs}, now)
    result.finished += len(completions)
    result.groups.update(finish_tasks(connection, completions, now))


#: Final states by the status of a call, ``SUCCEEDED`` left out.
_STATES = {Status.FAILED: TaskState.FAILED.value, Status.SKIPPED: TaskState.CANCELLED.value}
_SUCCEEDED = TaskState.SUCCEEDED.value


def _usage(report: OpenReport, row: Row, places: dict[str, str]) -> str | None:
    """Return the resource record of a call; short calls of a bundle share one string with the place only."""
    if not row.usage:
        return places.get(row.bundle_id)
    place = report.places.get(row.bundle_id)
    return json.dumps({**(place.record() if place else {}), **row.usage})


def _completion(task: Task, row: Row, node_no: int, blob_no: int | None, usage: str | None) -> Completion:
    state, code = _SUCCEEDED, None
    if row.status != Status.SUCCEEDED:
        state = _STATES[row.status]
        if row.status == Status.FAILED:
            code = row.code if row.code in TASK_CODES else "TASK_ERROR"
    result = (blob_no, row.offset, row.size) if row.size else (None, None, None)
    started, wall = (row.started, row.wall) if row.started else (None, None)
    return Completion(task, state, code, _short(row.message), started, wall, node_no, usage, *result)


def _short(message: str | None) -> str | None:
    """Make a message safe to store: limited length, no NUL (PostgreSQL), no surrogates."""
    if message is None:
        return None
    text = message.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= MESSAGE_LENGTH else text[:MESSAGE_LENGTH] + " …"


def _retry(connection: Connection, report: OpenReport, failed: list[Pair], current: set[int]) -> set[int]:
    """Requeue failed calls that have retries left; return the numbers of tasks that must not end now.

    If a call is no longer in the reported bundle, another attempt already waits or runs and decides.
    """
    raised = [(task, row) for task, row in failed if row.code == "TASK_ERROR"]
    if not raised:
        return set()
    options = options_of(connection, [task for task, _ in raised])
    again, in_progress = [], set()
    for task, row in raised:
        option = options[task.submission_no]
        if not option.retries or not option.retries_on(_exception_name(report, row)):
            continue
        if task.no not in current:
            in_progress.add(task.no)
        elif task.retried < option.retries:
            again.append(task)
    requeue(connection, again, counted=True, retried=True)
    return in_progress.union(task.no for task in again)


def _exception_name(report: OpenReport, row: Row) -> str:
    """Return ``module.Class`` of the exception, which a report contains as JSON (see umbel.serialize)."""
    data = report.body[row.offset : row.offset + row.size]
    try:
        described = json.loads(data[data.index(b"{") :])
        return f"{described['module']}.{described['qualname']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
