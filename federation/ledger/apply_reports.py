"""Taking reports into the ledger: a batch of reports, one transaction, whatever the number of calls."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, select, update

from umbel.protocol.errors import TASK_CODES
from umbel.protocol.messages import Interruption, OpenReport, Row, Status
from umbel.protocol.states import FINAL, TaskState

from .. import dispatch
from ..context import Federation
from ..db import shared
from ..db.statements import Statement, constant
from ..db.tables import bundles, endpoints, tasks
from ..dispatch.run_times import learn
from . import logs, samples, streams
from .completion import Ending, end_tasks
from .node_rows import hear, taken_away
from .requeue import put_back, put_back_lost
from .task_rows import Task, of_endpoint, options_of

log = logging.getLogger(__name__)

#: Longest message of a failure that is kept, characters.
MESSAGE_LENGTH = 2000


_INTERRUPTIONS = (Interruption.WALLTIME, Interruption.STOPPED)
_RESULTS = (Status.SUCCEEDED, Status.FAILED)
#: A task of the ledger and what a report says of it.
Pair = tuple[Task, Row]

_known = Statement(
    lambda d: select(endpoints.c.id, endpoints.c.no).where(
        d.among(endpoints.c.id, "ids"), endpoints.c.deleted.is_(None)
    )
)
_bundle_nos = Statement(
    lambda d: select(bundles.c.id, bundles.c.no).where(
        d.among(bundles.c.id, "ids"), bundles.c.endpoint_no == bindparam("endpoint")
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
    """What a batch of reports brought about: groups to wake, bundles to send, tasks that wrote something, and
    counts for the log."""

    groups: dict[str, int] = field(default_factory=dict)
    planned: list[dispatch.Planned] = field(default_factory=list)
    spoken: set[str] = field(default_factory=set)
    ended: int = 0
    dropped: int = 0


def take_in(fed: Federation, connection: Connection, reports: Sequence[OpenReport], now: float) -> Effects:
    """Write checked reports into the ledger and refill the windows that they freed.

    The first terminal report of a task wins; later ones are dropped and counted.
    """
    effects = Effects()
    known = dict(_known.rows(connection, ids=sorted({report.endpoint for report in reports})))
    shared.lock_endpoints(connection, known.values())
    for report in reports:
        endpoint_no = known.get(report.endpoint)
        if endpoint_no is None:
            continue  # deleted meanwhile
        node_no, lost = hear(connection, endpoint_no, report, now)
        if lost:
            effects.groups.update(put_back_lost(connection, lost, now, {}, taken_away(report.node, lost)))
        if report.rows:
            _take_rows(connection, effects, report, endpoint_no, node_no, now)
    for endpoint_no in sorted(known.values()):
        effects.planned += dispatch.refill(fed, connection, endpoint_no, now)
    return effects


def _take_rows(
    connection: Connection, effects: Effects, report: OpenReport, endpoint_no: int, node_no: int, now: float
) -> None:
    found = of_endpoint(connection, endpoint_no, [row.task_id for row in report.rows])
    if report.logs:
        effects.spoken.update(logs.keep(connection, report.logs, found))
    unwanted = _keep_items(connection, effects, report, endpoint_no, found) if report.items else ()
    pairs: list[Pair] = []
    for row in report.rows:
        task = found.get(row.task_id)
        # of a call that was put back uncounted the attempt taken back may have been the last one sent
        if (
            task is None
            or task.state in FINAL
            or row.attempt > task.attempt + (task.state == TaskState.QUEUED)
            or ((row.bundle_id, row.task_id) in unwanted and row.status in _RESULTS)
        ):
            effects.dropped += row.status != Status.RUNNING
            continue
        pairs.append((task, row))
    by_status = _by_status(pairs)
    learn(connection, endpoint_no, ((task.function_no, row) for task, row in pairs), now)
    current = _current(connection, endpoint_no, pairs)
    _note_running(connection, [p for p in by_status[Status.RUNNING] if p[0].no in current], node_no)
    put_back(connection, [t for t, _ in by_status[Status.RETURNED] if t.no in current], counted=False)
    _lose(connection, effects, [p for p in by_status[Status.LOST] if p[0].no in current], now)
    failed = by_status[Status.FAILED]
    repeated = _retry(connection, report, failed, current)
    ending = (
        by_status[Status.SUCCEEDED]
        + [p for p in failed if p[0].no not in repeated]
        + by_status[Status.SKIPPED]
    )
    _end(connection, effects, report, ending, node_no, now)


def _by_status(pairs: list[Pair]) -> dict[str, list[Pair]]:
    """Sort what a report says by status; of two ends of a call the first counts."""
    by_status: dict[str, list[Pair]] = defaultdict(list)
    seen: set[str] = set()
    for task, row in pairs:
        if row.status != Status.RUNNING:
            if row.task_id in seen:
                continue
            seen.add(row.task_id)
        by_status[row.status].append((task, row))
    return by_status


def _keep_items(
    connection: Connection, effects: Effects, report: OpenReport, endpoint_no: int, found: dict[str, Task]
) -> set[tuple[str, str]]:
    """Keep what calls yielded; return (bundle, task) of starts whose end does not count: another's do."""
    ids = sorted({told.bundle_id for told in report.items})
    numbers = dict(_bundle_nos.rows(connection, ids=ids, endpoint=endpoint_no))
    news, unwanted = streams.keep(connection, report.items, found, numbers)
    effects.spoken.update(news)
    return unwanted


def _current(connection: Connection, endpoint_no: int, pairs: list[Pair]) -> set[int]:
    """Numbers of the tasks of which a report speaks from the bundle that they are in now.

    A result counts wherever it comes from. Anything else that a report says of a call is news only from the
    call's present bundle: a report that is taken in twice, or an earlier bundle's late word, changes nothing.
    """
    told = [pair for pair in pairs if pair[1].status not in (Status.SUCCEEDED, Status.SKIPPED)]
    if not told:
        return set()
    ids = sorted({row.bundle_id for _, row in told})
    numbers = dict(_bundle_nos.rows(connection, ids=ids, endpoint=endpoint_no))
    return {task.no for task, row in told if numbers.get(row.bundle_id, 0) == task.bundle_no}


def _note_running(connection: Connection, pairs: list[Pair], node_no: int) -> None:
    begun = [(node_no, row.started, task.no) for task, row in pairs if task.state == TaskState.DISPATCHED]
    _run.each(connection, ("v_node", "v_started", "v_no"), begun)


def _lose(connection: Connection, effects: Effects, lost: list[Pair], now: float) -> None:
    """Calls whose runner died go back, and the attempt is counted."""
    messages = {task.no: _short(row.message) or "the process that ran it died" for task, row in lost}
    interruptions = {task.no: row.code for task, row in lost if row.code in _INTERRUPTIONS}
    effects.groups.update(put_back_lost(connection, [task for task, _ in lost], now, messages, interruptions))


def _end(
    connection: Connection,
    effects: Effects,
    report: OpenReport,
    ending: list[Pair],
    node_no: int,
    now: float,
) -> None:
    if not ending:
        return
    blob_no = None
    with_bytes = sum(1 for _, row in ending if row.size)
    if with_bytes:
        blob_no = shared.add_blob(connection, report.body, with_bytes)
    places = {bundle: json.dumps(place._asdict()) for bundle, place in report.places.items()}
    endings = [_ending(task, row, node_no, blob_no, _usage(report, row, places)) for task, row in ending]
    samples.note(connection, ending, {said.task_id: said.log.total for said in report.logs}, now)
    effects.ended += len(endings)
    effects.groups.update(end_tasks(connection, endings, now))


_STATES = {
    Status.SUCCEEDED: TaskState.SUCCEEDED,
    Status.FAILED: TaskState.FAILED,
    Status.SKIPPED: TaskState.CANCELLED,
}


def _usage(report: OpenReport, row: Row, places: dict[str, str]) -> str | None:
    """The resource record of a call; of a short one the place alone, one text for a whole bundle."""
    if not row.usage:
        return places.get(row.bundle_id)
    place = report.places.get(row.bundle_id)
    return json.dumps({**(place._asdict() if place else {}), **row.usage})


def _ending(task: Task, row: Row, node_no: int, blob_no: int | None, usage: str | None) -> Ending:
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
        usage,
        blob_no if row.size else None,
        row.offset if row.size else None,
        row.size if row.size else None,
    )


def _short(message: str | None) -> str | None:
    """A message as the database takes it: not too long, no NUL (PostgreSQL), no halves of characters."""
    if message is None:
        return None
    text = message.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= MESSAGE_LENGTH else text[:MESSAGE_LENGTH] + " …"


def _retry(connection: Connection, report: OpenReport, failed: list[Pair], current: set[int]) -> set[int]:
    """Queue failed calls again that their caller wants to be retried; return the numbers of those not to end.

    Of a call that is not in that bundle any more another try waits or runs already, and decides.
    """
    raised = [(task, row) for task, row in failed if row.code == "TASK_ERROR"]
    if not raised:
        return set()
    options = options_of(connection, [task for task, _ in raised])
    again, going_on = [], set()
    for task, row in raised:
        wanted = options[task.submission_no]
        if not wanted.retries or not wanted.retries_on(_exception_name(report, row)):
            continue
        if task.no not in current:
            going_on.add(task.no)
        elif task.retried < wanted.retries:
            again.append(task)
    put_back(connection, again, counted=True, retried=True)
    return going_on.union(task.no for task in again)


def _exception_name(report: OpenReport, row: Row) -> str:
    """``module.Class`` of the exception in a report, which carries it as JSON (see umbel.serialize)."""
    data = report.body[row.offset : row.offset + row.size]
    try:
        described = json.loads(data[data.index(b"{") :])
        return f"{described['module']}.{described['qualname']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
