"""Requeues lost calls, or ends them when their attempts are used up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, update

from umbel.protocol.messages import Interruption
from umbel.protocol.states import TaskState

from ..db import shared
from ..db.statements import Statement
from ..db.tables import tasks
from .completion import Completion, finish_tasks
from .task_rows import Task, options_of

#: Interruptions from outside after which a call fails: of any kind, and by the end of a batch job (a call
#: that outlasts three batch jobs is likely to outlast the next ones).
MAX_INTERRUPTIONS, MAX_WALLTIMES = 10, 3

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


def requeue(
    connection: Connection,
    calls: Sequence[Task],
    *,
    counted: bool,
    retried: bool = False,
    interrupted: bool = False,
) -> None:
    """Queue tasks again.

    ``counted``: the tasks may have started, so the attempt counts. ``retried``: the tasks raised an exception
    and are retried. ``interrupted``: the tasks were interrupted from outside.
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
    shared.change_loads(connection, shared.close_bundles(connection, calls))


def requeue_lost(
    connection: Connection,
    calls: Sequence[Task],
    now: float,
    messages: Mapping[int, str],
    interruptions: Mapping[int, str] | None = None,
) -> dict[str, int]:
    """Requeue tasks whose worker was lost; fail those that reached the limit of starts or interruptions.

    ``messages``: what happened, by task number. ``interruptions``: ``Interruption`` codes, by number, of
    tasks that were interrupted from outside; these are counted separately. With ``max_attempts`` 1 no call is
    started twice. Returns the last completion number by group id.
    """
    options = options_of(connection, list(calls))
    again: dict[bool, list[Task]] = {False: [], True: []}
    completions = []
    for call in calls:
        most = options[call.submission_no].max_attempts
        code = (interruptions or {}).get(call.no)
        # retries and interruptions are counted separately
        starts = call.attempt - call.retried - call.interrupted
        if starts < most and not (code and most > 1):
            again[False].append(call)
        elif code and most > 1 and call.interrupted + 1 < _max_interruptions(code):
            again[True].append(call)
        else:
            what = messages.get(call.no, "the worker node was lost")
            completions.append(_final_failure(call, what, starts, code, most))
    requeue(connection, again[False], counted=True)
    requeue(connection, again[True], counted=True, interrupted=True)
    return finish_tasks(connection, completions, now)


def _max_interruptions(code: str) -> int:
    return MAX_WALLTIMES if code == Interruption.WALLTIME else MAX_INTERRUPTIONS


def _final_failure(call: Task, what: str, starts: int, code: str | None, most: int) -> Completion:
    # not "started": a node may have ended before it has started a call that it had fetched
    times = f"attempt {starts} of {most} was the last one"
    if code and most > 1:
        times = f"interrupted {call.interrupted + 1} times, which is the limit"
    advice = ""
    if code == Interruption.WALLTIME:
        advice = ": increase the walltime of the endpoint's blocks, or do less work per call"
    final = code if code == Interruption.WALLTIME else "WORKER_LOST"
    return Completion(call, TaskState.FAILED.value, final, f"{what}; {times}{advice}")
