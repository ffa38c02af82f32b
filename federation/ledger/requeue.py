"""Putting calls back into the queue, or ending them when they were tried often enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, update

from umbel.protocol.messages import Interruption
from umbel.protocol.states import TaskState

from ..db import shared
from ..db.statements import Statement
from ..db.tables import tasks
from .completion import Ending, end_tasks
from .task_rows import Task, options_of

#: A call may be interrupted so often by no fault of its own before it ends: by whatever; by the ends of batch
#: jobs (a call that outlasts three of them would outlast the next ones too).
MOST_INTERRUPTIONS, MOST_WALLTIMES = 10, 3

_back = Statement(
    lambda d: update(tasks)
    .values(
        state=TaskState.QUEUED.value,
        attempt=tasks.c.attempt - bindparam("uncounted"),
        retried=tasks.c.retried + bindparam("retried_now"),
        interrupted=tasks.c.interrupted + bindparam("interrupted_now"),
        bundle_no=None,
        dispatched=None,
        node_no=None,
        started=None,
    )
    .where(d.among(tasks.c.no, "nos"))
)


def put_back(
    connection: Connection,
    calls: Sequence[Task],
    *,
    counted: bool,
    retried: bool = False,
    interrupted: bool = False,
) -> None:
    """Queue tasks again.

    ``counted``: they may have started, so the attempt stays counted. ``retried``: they raised, and the caller
    asked for another try. ``interrupted``: they were lost by no fault of their own.
    """
    if not calls:
        return
    _back.run(
        connection,
        nos=[call.no for call in calls],
        uncounted=0 if counted else 1,
        retried_now=int(retried),
        interrupted_now=int(interrupted),
    )
    shared.close_bundles(connection, Counter(call.bundle_no for call in calls if call.bundle_no is not None))


def put_back_lost(
    connection: Connection,
    calls: Sequence[Task],
    now: float,
    messages: Mapping[int, str],
    interruptions: Mapping[int, str] | None = None,
) -> dict[str, int]:
    """Queue tasks whose worker died, or end them when they were started, or interrupted, often enough.

    ``messages``: what happened, by task number; ``interruptions``: codes of ``Interruption`` of those that
    were lost by no fault of their own: they are counted apart. Where the caller allows one start only, no
    call is started twice, whatever ended it. Returns the ids of groups with news.
    """
    options = options_of(connection, list(calls))
    again: dict[bool, list[Task]] = {False: [], True: []}
    endings = []
    for call in calls:
        most = options[call.submission_no].max_attempts
        code = (interruptions or {}).get(call.no)
        # tries after an exception were asked for and are counted apart
        starts = call.attempt - call.retried - call.interrupted
        if starts < most and not (code and most > 1):
            again[False].append(call)
        elif code and most > 1 and call.interrupted + 1 < _most_interruptions(code):
            again[True].append(call)
        else:
            what = messages.get(call.no, "the worker node died")
            endings.append(_given_up(call, what, starts, code, most))
    put_back(connection, again[False], counted=True)
    put_back(connection, again[True], counted=True, interrupted=True)
    return end_tasks(connection, endings, now)


def _most_interruptions(code: str) -> int:
    return MOST_WALLTIMES if code == Interruption.WALLTIME else MOST_INTERRUPTIONS


def _given_up(call: Task, what: str, starts: int, code: str | None, most: int) -> Ending:
    times = (
        f"started {starts} times" if not code or most == 1 else f"interrupted {call.interrupted + 1} times"
    )
    advice = ""
    if code == Interruption.WALLTIME:
        advice = ": give the endpoint's blocks a longer walltime, or do less in a call"
    final = code if code == Interruption.WALLTIME else "WORKER_LOST"
    return Ending(call, TaskState.FAILED, final, f"{what}; {times}, which is the limit{advice}")
