"""Putting calls back into the queue, or ending them when they were tried often enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, update

from umbel.protocol.states import TaskState

from .. import rows
from ..statements import Statement
from ..tables import tasks
from .end import Ending, end_tasks
from .tasks import Task, options_of

_back = Statement(
    lambda d: update(tasks)
    .values(
        state=TaskState.QUEUED.value,
        attempt=tasks.c.attempt - bindparam("uncounted"),
        retried=tasks.c.retried + bindparam("retried_now"),
        bundle_no=None,
        dispatched=None,
        node_no=None,
        started=None,
    )
    .where(d.among(tasks.c.no, "nos"))
)


def put_back(connection: Connection, calls: Sequence[Task], *, counted: bool, retried: bool = False) -> None:
    """Queue tasks again.

    ``counted``: they may have started, so the attempt stays counted. ``retried``: they raised, and the caller
    asked for another try.
    """
    if not calls:
        return
    _back.run(
        connection, nos=[call.no for call in calls], uncounted=0 if counted else 1, retried_now=int(retried)
    )
    rows.close_bundles(connection, Counter(call.bundle_no for call in calls if call.bundle_no is not None))


def put_back_lost(
    connection: Connection, calls: Sequence[Task], now: float, messages: Mapping[int, str]
) -> dict[str, int]:
    """Queue tasks whose worker died, or end them with WORKER_LOST when they were started often enough.

    ``messages``: what happened, by task number. Returns the ids of groups with news.
    """
    options = options_of(connection, list(calls))
    again, endings = [], []
    for call in calls:
        # tries after an exception were asked for and are counted apart
        starts = call.attempt - call.retried
        if starts < options[call.submission_no].max_attempts:
            again.append(call)
        else:
            what = messages.get(call.no, "the worker node died")
            message = f"{what}; started {starts} times, which is the limit"
            endings.append(Ending(call, TaskState.FAILED, "WORKER_LOST", message))
    put_back(connection, again, counted=True)
    return end_tasks(connection, endings, now)
