"""Putting calls back into the queue, or ending them when they were tried often enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, select, update

from umbel.protocol.states import TaskState

from .. import rows
from ..options import Options
from ..tables import submissions, tasks
from .end import Ending, close_bundles, end_tasks

#: What is read of a task to decide about it.
COLUMNS = (
    tasks.c.no,
    tasks.c.id,
    tasks.c.state,
    tasks.c.attempt,
    tasks.c.retried,
    tasks.c.group_no,
    tasks.c.user_no,
    tasks.c.endpoint_no,
    tasks.c.function_no,
    tasks.c.submission_no,
    tasks.c.bundle_no,
)


def options_of(connection: Connection, submission_nos: Iterable[int]) -> dict[int, Options]:
    """Return the options of submissions by number."""
    wanted = sorted(set(submission_nos))
    if not wanted:
        return {}
    query = select(submissions.c.no, submissions.c.options)
    found = connection.execute(query.where(rows.among(connection, submissions.c.no, wanted)))
    return {no: Options.from_json(text) for no, text in found}


def put_back(connection: Connection, calls: Sequence[Any], *, counted: bool, retried: bool = False) -> None:
    """Queue tasks (rows with ``no`` and ``bundle_no``) again.

    ``counted``: they may have started, so the attempt stays counted. ``retried``: they raised, and the caller
    asked for another try.
    """
    if not calls:
        return
    statement = update(tasks).where(rows.among(connection, tasks.c.no, [call.no for call in calls]))
    connection.execute(
        statement.values(
            state=TaskState.QUEUED.value,
            bundle_no=None,
            dispatched=None,
            started=None,
            node_no=None,
            attempt=tasks.c.attempt if counted else tasks.c.attempt - 1,
            retried=tasks.c.retried + 1 if retried else tasks.c.retried,
        )
    )
    close_bundles(connection, Counter(call.bundle_no for call in calls if call.bundle_no is not None))


def put_back_lost(
    connection: Connection, calls: Sequence[Any], now: float, messages: dict[int, str]
) -> dict[str, int]:
    """Queue tasks whose worker died, or end them with WORKER_LOST when they were started often enough.

    ``messages``: what happened, by task number. Returns the ids of groups with news.
    """
    options = options_of(connection, (call.submission_no for call in calls))
    # tries after an exception were asked for and are counted apart
    starts = {call.no: call.attempt - call.retried for call in calls}
    again = [call for call in calls if starts[call.no] < options[call.submission_no].max_attempts]
    ended = [call for call in calls if starts[call.no] >= options[call.submission_no].max_attempts]
    put_back(connection, again, counted=True)
    endings = [
        Ending(
            call,
            TaskState.FAILED,
            "WORKER_LOST",
            f"{messages.get(call.no, 'the worker node died')}; started {call.attempt} times, which is the limit",
        )
        for call in ended
    ]
    return end_tasks(connection, endings, now)
