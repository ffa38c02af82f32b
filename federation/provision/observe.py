"""Apply a scheduler's answer to the rows of blocks: adopt jobs, end blocks, or wait for more answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..context import Federation
from .planning import failures
from .planning.model import BlockState
from .records import blocks, sites
from .schedulers.base import Job

#: Seconds after which a submission whose answer was lost has failed if the scheduler does not list its name.
RESOLVE_AFTER = 30.0
#: Seconds after which a job that the scheduler no longer lists has ended (accounting data arrives late).
GONE_AFTER = 40.0


def apply_jobs(
    fed: Federation, site: sites.Site, active: Sequence[Any], jobs: Sequence[Job], asked: float
) -> tuple[list[tuple[Any, BlockState]], dict[str, str]]:
    """Apply the answer to a query sent at time ``asked`` to the rows.

    Returns the blocks that have ended with their final states, and the endpoint's jobs without a block (id →
    name).
    """
    by_name = {job.name: job for job in jobs}
    ended = []
    for row in active:
        job = by_name.get(row.name)
        state = _update_known(fed, row, job, asked) if job else _update_missing(fed, site, row, asked)
        if state is not None and not state.active:
            ended.append((row, state))
    with fed.database.read() as connection:
        known = blocks.names(connection, site.endpoint_no) | {row.name for row in active}
    mine = f"umbel-{site.endpoint_id[:8]}-"
    orphans = {
        job.id: job.name
        for job in jobs
        if job.name.startswith(mine) and job.name not in known and job.state.active
    }
    return ended, orphans


def _update_known(fed: Federation, row: Any, job: Job, now: float) -> BlockState | None:
    """Update the row of a job that the scheduler lists."""
    if job.state is BlockState.UNKNOWN:
        return None
    values: dict[str, Any] = {"missing_since": None, "reason": job.reason[:500]}
    if row.job_id != job.id:
        values["job_id"] = job.id  # the answer to the submission was lost: adopt the job by its name
    if job.hosts:
        values["hosts"] = job.hosts
    if row.started is None and job.state is BlockState.RUNNING:
        values["started"] = now - (job.ran or 0.0)
    state = job.state
    if not state.active:
        values["ended"] = now
        if row.started is None and job.ran:
            values["started"] = now - job.ran
        values.update(busy=0, workers=0, idle_since=None)
    elif row.drained is not None:
        state = BlockState.DRAINING
    elif state.waiting and row.joined is not None and state is BlockState.PENDING:
        state = BlockState.RUNNING  # the worker's heartbeat is newer
    if any(getattr(row, name) != value for name, value in {**values, "state": state.value}.items()):
        blocks.change(fed, row.name, state=state, **values)
    return state


def _update_missing(fed: Federation, site: sites.Site, row: Any, asked: float) -> BlockState | None:
    """Update the row of a job that the scheduler does not list."""
    if asked <= row.submitted:
        return None  # the query was sent before the submission
    if row.state == BlockState.SUBMITTING.value:
        if asked - row.submitted < RESOLVE_AFTER:
            return None
        message = "the scheduler never received the job"
        blocks.change(fed, row.name, state=BlockState.LOST, ended=asked, reason=message)
        sites.update_planner_state(
            fed, site.endpoint_no, lambda m: failures.refused(m, site.policy, asked, message)
        )
        return None  # a failed submission, not a failed block
    if row.missing_since is None:
        blocks.change(fed, row.name, missing_since=asked)
    stopped = row.drained is not None or row.cancelled is not None
    since = asked if row.missing_since is None else row.missing_since
    if not stopped and asked - since < GONE_AFTER:
        return None
    state = BlockState.COMPLETED if stopped or row.joined is not None else BlockState.LOST
    if row.cancelled is not None:
        state = BlockState.CANCELLED
    # the exact end time is not known
    blocks.change(fed, row.name, state=state, ended=since, busy=0, workers=0, idle_since=None)
    return state
