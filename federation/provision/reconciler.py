"""The loop over one elastic endpoint: observe, decide, act.

Workers' heartbeats are the primary signal. The scheduler is polled at most once per interval, which grows
with its response time. A site that does not answer keeps its last known state.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..broker.client import BrokerError
from ..context import Federation
from . import teardown
from .actions import Actions
from .connection.shell import SiteError
from .observe import apply_jobs
from .planning import demand, failures
from .planning.decide import decide, expire_old, valid_for
from .planning.model import BlockState, Decision, PlannerState, View
from .records import blocks, sites
from .site import bootstrap
from .site.machine import Machine, refresh
from .site.network import Installation

log = logging.getLogger(__name__)

#: Shortest time between two rounds, seconds; each costs a few reads of the ledger.
RECONCILE_INTERVAL = 1.0
#: Seconds between two polls of the scheduler while there are no blocks, to find orphaned jobs.
IDLE_POLL_INTERVAL = 900.0
#: Longest pause between two attempts to reach a site, seconds.
MAX_BACKOFF = 600.0


class Reconciler:
    """Reconciles the blocks of one endpoint. ``wheelhouse``: directory of the wheels to install on sites."""

    def __init__(
        self, fed: Federation, machine: Machine, wheelhouse: Path, clock: Callable[[], float] = time.time
    ):
        self._fed = fed
        self._machine = machine
        self._no = machine.site.endpoint_no
        self._wheelhouse = wheelhouse
        self._clock = clock
        self._next_poll = 0.0
        self._failures = 0
        self._ready = self._removing = False
        self._env = ""
        self._orphans: dict[str, float] = {}
        self._last_waiting_for = ""
        self.actions = Actions(fed, clock)

    def run_once(self) -> float:
        """Observe, decide and act once; return after how many seconds to do so again if nothing changes.

        Raises NotFound if the site has been removed.
        """
        site = sites.find(self._fed, self._no)
        self._machine = refresh(self._machine, site)
        valid = math.inf
        if site.removing:
            self._tear_down(site)
        else:
            valid = self._reconcile(site)
        return max(RECONCILE_INTERVAL, min(valid, self._next_poll - self._clock()))

    def _reconcile(self, site: sites.Site) -> float:
        """Observe, decide and act; return for how many seconds this is valid without a poll of the site."""
        for name in blocks.apply_heartbeats(self._fed, self._no, self._clock()):
            sites.update_planner_state(self._fed, self._no, failures.joined)
            with self._fed.database.read() as connection:
                route = blocks.route_of(connection, self._no, name)
            sites.record_route(self._fed, site, route, self._clock())
        try:
            self._prepare()
            if self._failures == 0 or self._clock() >= self._next_poll:
                self._machine.network.ensure_tunnel()
            if self._clock() >= self._next_poll:
                self._poll_scheduler()
        except (SiteError, *BrokerError) as error:
            self._back_off(getattr(error, "message", str(error)))
            return math.inf
        return self._decide_and_act() if self._failures == 0 else math.inf

    def _prepare(self) -> None:
        """Prepare the site to run workers, once per process; costs two commands if it is prepared already."""
        if self._ready or self._clock() < self._next_poll:
            return
        self._env = bootstrap.install(self._machine, self._wheelhouse)
        if not bootstrap.has_credentials(self._machine):
            bootstrap.install_credentials(self._fed, self._machine)
        # batch systems do not create directories for a job's output
        made = self._machine.shell.run(["mkdir", "-p", "-m", "700", "--", self._machine.blocks])
        if made.code != 0:
            raise SiteError(f"cannot create directory {self._machine.blocks}: {made.message}")
        installation = Installation(self._machine.folder, self._env, self._machine.site.endpoint_name)
        self._machine.network.routes(installation, self._machine.site.route)
        self._ready = True

    def _poll_scheduler(self) -> None:
        """Poll the scheduler and apply its answer to the rows."""
        with self._fed.database.read() as connection:
            active = blocks.active(connection, self._no)
        began, began_monotonic = self._clock(), time.monotonic()
        jobs = self._machine.scheduler().jobs(
            self._machine.shell, [row.job_id for row in active if row.job_id]
        )
        took = time.monotonic() - began_monotonic
        site = self._machine.site
        ended, orphans = apply_jobs(self._fed, site, active, jobs, began)
        for row, state in ended:
            self._record_end(row, state)
        ended_names = {row.name for row, _ in ended}
        self._strike_silent_nodes([row for row in active if row.name not in ended_names], began)
        self._cancel_orphans(orphans)
        if len(active) > len(ended):
            self._machine.network.ensure_relay(site.route)
        else:
            self._machine.network.stop_relay()
            blocks.delete_old_nodes(self._fed, self._no, began)
        if self._failures or site.status != "ok":
            log.info("%s: site %s is reachable", site.endpoint_name, site.settings.address)
        self._failures = 0
        interval = max(site.settings.interval, 5.0 * took)
        # without blocks there is little to poll for
        self._next_poll = self._clock() + (interval if len(active) > len(ended) else IDLE_POLL_INTERVAL)
        sites.set_columns(self._fed, self._no, status="ok", message="", looked=began, took=took)

    def _record_end(self, row: Any, state: BlockState) -> None:
        """Update the failure counts when a block ends; keep the last output of a failed block."""
        now, site = self._clock(), self._machine.site
        ran = 0.0 if row.started is None else now - row.started
        tail = ""
        if row.joined is None and state in (
            BlockState.FAILED,
            BlockState.COMPLETED,
            BlockState.OUT_OF_MEMORY,
        ):
            tail = self._tail(row.name)
            blocks.change(self._fed, row.name, tail=tail)
        with self._fed.database.read() as connection:
            # the hosts may have arrived with the same answer as the end
            hosts = blocks.hosts(blocks.find(connection, row.name))
            last_seen = blocks.last_seen(connection, self._no, row.name)

        def change(planner_state: PlannerState) -> PlannerState:
            return failures.ended(
                planner_state,
                site.policy,
                now,
                state,
                joined=row.joined is not None,
                ran=ran,
                block=row.name,
                hosts=hosts,
                last_seen=last_seen,
                message=tail[-300:],
            )

        sites.update_planner_state(self._fed, self._no, change)
        if tail:  # it ended without a worker: the route to the broker may have changed
            self._machine.network.invalidate()
            sites.set_columns(self._fed, self._no, network="{}")
        log.info("%s: block %s ended: %s", site.endpoint_name, row.name, state.value)

    def _strike_silent_nodes(self, rows: list[Any], now: float) -> None:
        """Count a failure for each node without a heartbeat while other nodes of its block have one."""
        policy = self._machine.site.policy
        for row in rows:
            started = row.started if row.drained is None else None
            if row.nodes < 2 or row.joined is None or started is None or now - started < policy.start_timeout:
                continue
            with self._fed.database.read() as connection:
                hosts = failures.failed_nodes(
                    blocks.hosts(row), blocks.last_seen(connection, self._no, row.name)
                )
            known = self._machine.site.planner_state.struck
            new = [host for host in hosts if f"{row.name}.{host}" not in known]
            if new:
                log.warning(
                    "block %s: no heartbeat from nodes %s: counted as failures", row.name, ", ".join(new)
                )
                strike = partial(failures.strike_nodes, policy=policy, now=now, block=row.name, hosts=new)
                sites.update_planner_state(self._fed, self._no, strike)

    def _tail(self, name: str) -> str:
        folder = self._machine.blocks
        parts = [self._machine.shell.read(f"{folder}/{name}.{end}", 2048) for end in ("out", "err")]
        return b"\n".join(part for part in parts if part).decode(errors="replace").replace("\0", "")

    def _cancel_orphans(self, orphans: dict[str, str]) -> None:
        """Cancel jobs without a row, after half of ``grace``: the row may not be committed yet."""
        now = self._clock()
        self._orphans = {id: self._orphans.get(id, now) for id in orphans}
        due = [
            id for id, since in self._orphans.items() if now - since >= self._machine.site.policy.grace / 2
        ]
        if due:
            log.warning(
                "%s: cancelling jobs %s, which belong to no block", self._machine.site.endpoint_name, due
            )
            self._machine.scheduler().cancel(self._machine.shell, due)

    def _decide_and_act(self) -> float:
        """Decide and act; return for how many seconds the decision is valid."""
        now = self._clock()
        site = sites.find(self._fed, self._no)
        with self._fed.database.read() as connection:
            rows = blocks.active(connection, self._no)
            view = View(
                blocks=tuple(blocks.block(row) for row in rows),
                demand=demand.observe(connection, self._no, now),
                planner_state=expire_old(site.planner_state, now),
                used_day=blocks.used_hours(connection, self._no, now - blocks.DAY),
                used_total=blocks.used_hours_total(connection, self._no),
            )
        decision = decide(view, site.policy, now)
        self._record_decision(site, decision)
        valid = valid_for(view, decision, site.policy)
        if not decision.actions:
            return valid
        try:
            next_poll = self.actions.perform(self._machine, self._env, view, decision)
        except SiteError as error:
            self._back_off(error.message)
            return valid
        if next_poll is not None:
            self._next_poll = min(self._next_poll, next_poll)
        return valid

    def _record_decision(self, site: sites.Site, decision: Decision) -> None:
        """Store the planner state, and log each action and its reason once."""
        for reason in dict.fromkeys(action.reason for action in decision.actions):
            log.info("%s: %s", site.endpoint_name, reason)
        words = "; ".join(dict.fromkeys(action.reason for action in decision.actions)) or decision.waiting_for
        if decision.waiting_for and not decision.actions and decision.waiting_for != self._last_waiting_for:
            log.info("%s: not submitting more blocks: %s", site.endpoint_name, decision.waiting_for)
        self._last_waiting_for = decision.waiting_for
        begun, surplus = decision.planner_state.begun, decision.planner_state.surplus_since
        if (begun, surplus) != (site.planner_state.begun, site.planner_state.surplus_since):
            sites.update_planner_state(
                self._fed,
                self._no,
                lambda planner_state: replace(planner_state, begun=begun, surplus_since=surplus),
            )
        if words:
            sites.record_decision(self._fed, site, words[:1000], self._clock())

    def _back_off(self, message: str) -> None:
        """The site does not work: leave the blocks as they are and retry with growing delays."""
        self._failures += 1
        delay = min(self._machine.site.settings.interval * 2 ** min(self._failures - 1, 6), MAX_BACKOFF)
        self._next_poll = self._clock() + delay
        log.warning(
            "%s: site unreachable, next attempt in %.0f s: %s",
            self._machine.site.endpoint_name,
            delay,
            message,
        )
        sites.set_columns(self._fed, self._no, status="unreachable", message=message[:1000])

    def _tear_down(self, site: sites.Site) -> None:
        """Clean up the site of a deleted endpoint; called until it succeeds."""
        if not self._removing:
            self._removing, self._next_poll = True, 0.0
        if self._clock() < self._next_poll:
            return
        try:
            left = teardown.run_step(self._fed, self._machine)
        except SiteError as error:
            if teardown.is_abandoned(site, self._clock()):
                teardown.delete_records(self._fed, site)
                return
            self._back_off(f"the endpoint is deleted, but its site is not cleaned up yet: {error.message}")
            return
        self._next_poll = self._clock() + site.settings.interval
        if left:
            message = f"the endpoint is deleted; {len(left)} of its jobs have not ended yet"
            sites.set_columns(self._fed, self._no, status="removing", message=message)
        else:
            log.info("%s: site %s is cleaned up", site.endpoint_name, site.settings.address)

    def close(self) -> None:
        """Close the connections; running blocks are not affected."""
        self._machine.close()
