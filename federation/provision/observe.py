"""From a scheduler's answer to the rows of blocks: adopt, end, or wait and see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..context import Federation
from .planning import failures
from .planning.model import BlockState
from .records import blocks, sites
from .schedulers.base import Job

#: A submission whose answer was lost is given up when the scheduler does not know the name after so long.
RESOLVE_AFTER = 30.0
#: A job that the scheduler does not tell of any more counts as gone after so long (accounts come late).
GONE_AFTER = 40.0


def apply_jobs(
    fed: Federation, site: sites.Site, active: Sequence[Any], jobs: Sequence[Job], asked: float
) -> tuple[list[tuple[Any, BlockState]], dict[str, str]]:
    """Bring an answer that was asked for at a time (``asked``) into the rows.

    Returns the blocks that have ended and how, and the endpoint's jobs that no block owns (id → name).
    """
    by_name = {job.name: job for job in jobs}
    ended = []
    for row in active:
        job = by_name.get(row.name)
        state = _follow(fed, row, job, asked) if job else _miss(fed, site, row, asked)
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


def _follow(fed: Federation, row: Any, job: Job, now: float) -> BlockState | None:
    """The scheduler knows the job."""
    if job.state is BlockState.UNKNOWN:
        return None
    values: dict[str, Any] = {"missing_since": None, "reason": job.reason[:500]}
    if row.job_id != job.id:
        values["job_id"] = job.id  # its answer had been lost: adopted by its name
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
        state = BlockState.RUNNING  # the worker's word is newer
    if any(getattr(row, name) != value for name, value in {**values, "state": state.value}.items()):
        blocks.change(fed, row.name, state=state, **values)
    return state


def _miss(fed: Federation, site: sites.Site, row: Any, asked: float) -> BlockState | None:
    """The scheduler does not know the job (any more)."""
    if asked <= row.submitted:
        return None  # it was asked before
    if row.state == BlockState.SUBMITTING.value:
        if asked - row.submitted < RESOLVE_AFTER:
            return None
        message = "the scheduler never got it"
        blocks.change(fed, row.name, state=BlockState.LOST, ended=asked, reason=message)
        sites.remember(fed, site.endpoint_no, lambda m: failures.refused(m, site.policy, asked, message))
        return None  # not a failure of the block
    if row.missing_since is None:
        blocks.change(fed, row.name, missing_since=asked)
    told = row.drained is not None or row.cancelled is not None
    since = asked if row.missing_since is None else row.missing_since
    if not told and asked - since < GONE_AFTER:
        return None
    state = BlockState.COMPLETED if told or row.joined is not None else BlockState.LOST
    if row.cancelled is not None:
        state = BlockState.CANCELLED
    # when it went is not known better than this
    blocks.change(fed, row.name, state=state, ended=since, busy=0, workers=0, idle_since=None)
    return state
