"""Taking reports into the ledger: a batch of reports, one transaction, whatever the number of calls."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, select, update

from umbel.protocol.errors import TASK_CODES
from umbel.protocol.messages import OpenReport, Row, Status
from umbel.protocol.states import FINAL, TaskState

from .. import dispatch, rows
from ..context import Federation
from ..estimates import learn
from ..statements import Statement, constant
from ..tables import endpoints, tasks
from .end import Ending, end_tasks
from .nodes import hear
from .requeue import put_back, put_back_lost
from .tasks import Task, of_endpoint, options_of

log = logging.getLogger(__name__)

#: Longest message of a failure that is kept, characters.
MESSAGE_LENGTH = 2000


#: A task of the ledger and what a report says of it.
Pair = tuple[Task, Row]

_known = Statement(
    lambda d: select(endpoints.c.id, endpoints.c.no).where(
        d.among(endpoints.c.id, "ids"), endpoints.c.deleted.is_(None)
    )
)
_run = Statement(
    lambda d: update(tasks)
    .values(
        state=constant(TaskState.RUNNING.value), node_no=bindparam("v_node"), started=bindparam("v_started")
    )
    .where(tasks.c.no == bindparam("v_no"), tasks.c.state == constant(TaskState.DISPATCHED.value))
)


@dataclass
class Effects:
    """What a batch of reports brought about: groups to wake, bundles to send, and counts for the log."""

    groups: dict[str, int] = field(default_factory=dict)
    planned: list[dispatch.Planned] = field(default_factory=list)
    ended: int = 0
    dropped: int = 0


def take_in(fed: Federation, connection: Connection, reports: Sequence[OpenReport], now: float) -> Effects:
    """Write checked reports into the ledger and refill the windows that they freed.

    The first terminal report of a task wins; later ones are dropped and counted.
    """
    effects = Effects()
    known = dict(_known.rows(connection, ids=sorted({report.endpoint for report in reports})))
    rows.lock_endpoints(connection, known.values())
    for report in reports:
        endpoint_no = known.get(report.endpoint)
        if endpoint_no is None:
            continue  # deleted meanwhile
        node_no, lost = hear(connection, endpoint_no, report, now)
        if lost:
            effects.groups.update(put_back_lost(connection, lost, now, {}))
        if report.rows:
            _take_rows(connection, effects, report, endpoint_no, node_no, now)
    for endpoint_no in sorted(known.values()):
        effects.planned += dispatch.refill(fed, connection, endpoint_no, now)
    return effects


def _take_rows(
    connection: Connection, effects: Effects, report: OpenReport, endpoint_no: int, node_no: int, now: float
) -> None:
    found = of_endpoint(connection, endpoint_no, [row.task_id for row in report.rows])
    pairs: list[Pair] = []
    seen: set[str] = set()
    for row in report.rows:
        task = found.get(row.task_id)
        if task is None or task.state in FINAL or row.attempt > task.attempt:
            effects.dropped += row.status != Status.RUNNING
            continue
        pairs.append((task, row))
    by_status: dict[str, list[Pair]] = defaultdict(list)
    for task, row in pairs:
        ends = row.status != Status.RUNNING
        if ends and row.task_id in seen:
            continue  # twice in one report: the first counts
        if ends:
            seen.add(row.task_id)
        by_status[row.status].append((task, row))
    learn(connection, endpoint_no, ((task.function_no, row) for task, row in pairs), now)
    _note_running(connection, by_status[Status.RUNNING], node_no)
    current = [
        (t, r) for t, r in by_status[Status.RETURNED] + by_status[Status.LOST] if r.attempt == t.attempt
    ]
    _give_back(connection, effects, current, now)
    _end(connection, effects, report, by_status, node_no, now)


def _note_running(connection: Connection, pairs: list[Pair], node_no: int) -> None:
    begun = [
        (node_no, row.started, task.no)
        for task, row in pairs
        if task.state == TaskState.DISPATCHED and row.attempt == task.attempt
    ]
    _run.each(connection, ("v_node", "v_started", "v_no"), begun)


def _give_back(connection: Connection, effects: Effects, pairs: list[Pair], now: float) -> None:
    """Calls that were not started go back for nothing, those whose runner died as a counted attempt."""
    back = [task for task, row in pairs if row.status == Status.RETURNED and task.state != TaskState.QUEUED]
    put_back(connection, back, counted=False)
    lost = [
        (task, row) for task, row in pairs if row.status == Status.LOST and task.state != TaskState.QUEUED
    ]
    messages = {task.no: _short(row.message) or "the process that ran it died" for task, row in lost}
    effects.groups.update(put_back_lost(connection, [task for task, _ in lost], now, messages))


def _end(
    connection: Connection,
    effects: Effects,
    report: OpenReport,
    by_status: dict[str, list[Pair]],
    node_no: int,
    now: float,
) -> None:
    failed = by_status[Status.FAILED]
    again = _to_retry(connection, report, failed)
    put_back(connection, again, counted=True, retried=True)
    repeated = {task.no for task in again}
    ending = (
        by_status[Status.SUCCEEDED]
        + [p for p in failed if p[0].no not in repeated]
        + by_status[Status.SKIPPED]
    )
    if not ending:
        return
    blob_no = None
    with_bytes = sum(1 for _, row in ending if row.size)
    if with_bytes:
        blob_no = rows.add_blob(connection, report.body, with_bytes)
    endings = [_ending(task, row, node_no, blob_no) for task, row in ending]
    effects.ended += len(endings)
    effects.groups.update(end_tasks(connection, endings, now))


_STATES = {
    Status.SUCCEEDED: TaskState.SUCCEEDED,
    Status.FAILED: TaskState.FAILED,
    Status.SKIPPED: TaskState.CANCELLED,
}


def _ending(task: Task, row: Row, node_no: int, blob_no: int | None) -> Ending:
    state = _STATES[row.status]
    code = row.code if row.code in TASK_CODES else "TASK_ERROR"
    return Ending(
        task,
        state,
        code if state is TaskState.FAILED else None,
        _short(row.message),
        row.started or None,
        row.wall if row.started else None,
        node_no,
        json.dumps(row.usage) if row.usage else None,
        blob_no if row.size else None,
        row.offset if row.size else None,
        row.size if row.size else None,
    )


def _short(message: str | None) -> str | None:
    if message is None or len(message) <= MESSAGE_LENGTH:
        return message
    return message[:MESSAGE_LENGTH] + " …"


def _to_retry(connection: Connection, report: OpenReport, failed: list[Pair]) -> list[Task]:
    """Failed calls that their caller wants to be tried again."""
    raised = [
        (task, row) for task, row in failed if row.code == "TASK_ERROR" and task.state != TaskState.QUEUED
    ]
    if not raised:
        return []
    options = options_of(connection, [task for task, _ in raised])
    again = []
    for task, row in raised:
        wanted = options[task.submission_no]
        if task.retried < wanted.retries and wanted.retries_on(_exception_name(report, row)):
            again.append(task)
    return again


def _exception_name(report: OpenReport, row: Row) -> str:
    """``module.Class`` of the exception in a report, which carries it as JSON (see umbel.serialize)."""
    data = report.body[row.offset : row.offset + row.size]
    try:
        described = json.loads(data[data.index(b"{") :])
        return f"{described['module']}.{described['qualname']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
