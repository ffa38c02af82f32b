"""The loop over one elastic endpoint: observe, decide, act.

Workers' heartbeats are the primary signal; the scheduler is asked at most once per interval, which grows with
its slowness. What is not known stays as it was: a site that does not answer is frozen.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..broker.client import BrokerError
from ..context import Federation
from . import teardown
from .actions import Hands
from .connection.shell import SiteError
from .observe import apply_jobs
from .planning import demand, failures
from .planning.decide import decide, forget_old
from .planning.model import BlockState, Decision, Memory, View
from .records import blocks, sites
from .site import bootstrap
from .site.machine import Machine, refreshed
from .site.network import Place

log = logging.getLogger(__name__)

#: Seconds between two turns; each costs a few reads of the ledger.
TICK = 1.0
#: With nothing to look after, the scheduler is asked for forgotten jobs this often, seconds.
QUIET_INTERVAL = 900.0
#: Longest pause between two tries to reach a site, seconds.
MOST_PATIENCE = 600.0


class Keeper:
    """Keeps the blocks of one endpoint. ``wheelhouse``: folder of the wheels that sites get."""

    def __init__(
        self, fed: Federation, machine: Machine, wheelhouse: Path, clock: Callable[[], float] = time.time
    ):
        self._fed = fed
        self._machine = machine
        self._no = machine.site.endpoint_no
        self._wheelhouse = wheelhouse
        self._clock = clock
        self._next_look = 0.0
        self._failures = 0
        self._ready = self._leaving = False
        self._env = ""
        self._orphans: dict[str, float] = {}
        self._said = ""
        self.hands = Hands(fed, clock)

    def turn(self) -> None:
        """One round. Raises NotFound when the site was removed."""
        site = sites.find(self._fed, self._no)
        self._machine = refreshed(self._machine, site)
        if site.leaving:
            self._farewell(site)
            return
        for name in blocks.hear_workers(self._fed, self._no, self._clock()):
            sites.remember(self._fed, self._no, failures.joined)
            with self._fed.database.read() as connection:
                way = blocks.way_of(connection, self._no, name)
            sites.came_by(self._fed, site, way, self._clock())
        try:
            self._prepare()
            if self._failures == 0 or self._clock() >= self._next_look:
                self._machine.network.keep()
            if self._clock() >= self._next_look:
                self._look()
        except (SiteError, *BrokerError) as error:
            self._frozen(getattr(error, "message", str(error)))
            return
        if self._failures == 0:
            self._decide()

    def _prepare(self) -> None:
        """Have the site able to run workers: once per process, it costs two commands."""
        if self._ready or self._clock() < self._next_look:
            return
        self._env = bootstrap.install(self._machine, self._wheelhouse)
        if not bootstrap.has_credentials(self._machine):
            bootstrap.give_credentials(self._fed, self._machine)
        # batch systems do not make folders for a job's output
        made = self._machine.shell.run(["mkdir", "-p", "-m", "700", "--", self._machine.blocks])
        if made.code != 0:
            raise SiteError(f"{self._machine.blocks} cannot be made: {made.said}")
        place = Place(self._machine.folder, self._env, self._machine.site.endpoint_name)
        self._machine.network.ways(place, self._machine.site.way)
        self._ready = True

    def _look(self) -> None:
        """Ask the scheduler, and bring its answer into the rows."""
        with self._fed.database.read() as connection:
            active = blocks.active(connection, self._no)
        began, mono = self._clock(), time.monotonic()
        jobs = self._machine.scheduler().jobs(
            self._machine.shell, [row.job_id for row in active if row.job_id]
        )
        took = time.monotonic() - mono
        site = self._machine.site
        ended, orphans = apply_jobs(self._fed, site, active, jobs, began)
        for row, state in ended:
            self._learn(row, state)
        gone = {row.name for row, _ in ended}
        self._blame_silent([row for row in active if row.name not in gone], began)
        self._end_orphans(orphans)
        if len(active) > len(ended):
            self._machine.network.keep_relay(site.way)
        else:
            self._machine.network.rest()
            blocks.forget_nodes(self._fed, self._no, began)
        if self._failures or site.status != "ok":
            log.info("%s: %s answers", site.endpoint_name, site.settings.address)
        self._failures = 0
        interval = max(site.settings.interval, 5.0 * took)
        # with nothing to look after there is nothing to ask
        self._next_look = self._clock() + (interval if len(active) > len(ended) else QUIET_INTERVAL)
        sites.note(self._fed, self._no, status="ok", message="", looked=began, took=took)

    def _learn(self, row: Any, state: BlockState) -> None:
        """Remember what a block's end teaches, and keep the end of a failed one's output."""
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
            # where it ran may have come with the answer that it has ended
            hosts = blocks.hosts(blocks.find(connection, row.name))
            heard = blocks.heard(connection, self._no, row.name)

        def change(memory: Memory) -> Memory:
            return failures.ended(
                memory,
                site.policy,
                now,
                state,
                joined=row.joined is not None,
                ran=ran,
                block=row.name,
                hosts=hosts,
                heard=heard,
                message=tail[-300:],
            )

        sites.remember(self._fed, self._no, change)
        if tail:  # it has ended without a worker: perhaps the way has changed
            self._machine.network.doubt()
            sites.note(self._fed, self._no, network="{}")
        log.info("%s: block %s ended: %s", site.endpoint_name, row.name, state.value)

    def _blame_silent(self, rows: list[Any], now: float) -> None:
        """Nodes of running blocks whose workers never spoke although others' did, and had time to."""
        policy = self._machine.site.policy
        for row in rows:
            started = row.started if row.drained is None else None
            if row.nodes < 2 or row.joined is None or started is None or now - started < policy.start_timeout:
                continue
            with self._fed.database.read() as connection:
                hosts = failures.at_fault(blocks.hosts(row), blocks.heard(connection, self._no, row.name))
            known = self._machine.site.memory.struck
            new = [host for host in hosts if f"{row.name}.{host}" not in known]
            if new:
                log.warning("%s: no worker has spoken from %s: counted against it", row.name, ", ".join(new))
                blame = partial(failures.blame, policy=policy, now=now, block=row.name, hosts=new)
                sites.remember(self._fed, self._no, blame)

    def _tail(self, name: str) -> str:
        folder = self._machine.blocks
        parts = [self._machine.shell.read(f"{folder}/{name}.{end}", 2048) for end in ("out", "err")]
        return b"\n".join(part for part in parts if part).decode(errors="replace").replace("\0", "")

    def _end_orphans(self, orphans: dict[str, str]) -> None:
        """Cancel jobs of ours that no row knows, after a grace: a row may just be on its way."""
        now = self._clock()
        self._orphans = {id: self._orphans.get(id, now) for id in orphans}
        due = [
            id for id, since in self._orphans.items() if now - since >= self._machine.site.policy.grace / 2
        ]
        if due:
            log.warning("%s: jobs %s belong to no block: cancelled", self._machine.site.endpoint_name, due)
            self._machine.scheduler().cancel(self._machine.shell, due)

    def _decide(self) -> None:
        now = self._clock()
        site = sites.find(self._fed, self._no)
        with self._fed.database.read() as connection:
            rows = blocks.active(connection, self._no)
            view = View(
                blocks=tuple(blocks.block(row) for row in rows),
                demand=demand.observe(connection, self._no, now),
                memory=forget_old(site.memory, now),
                used_day=blocks.used_hours(connection, self._no, now - blocks.DAY),
                used_total=blocks.used_hours_ever(connection, self._no),
            )
        decision = decide(view, site.policy, now)
        self._note(site, decision)
        if not decision.actions:
            return
        try:
            soon = self.hands.act(self._machine, self._env, view, decision)
        except SiteError as error:
            self._frozen(error.message)
            return
        if soon is not None:
            self._next_look = min(self._next_look, soon)

    def _note(self, site: sites.Site, decision: Decision) -> None:
        """Keep what is to be remembered, and say what is done and why, once."""
        for reason in dict.fromkeys(action.reason for action in decision.actions):
            log.info("%s: %s", site.endpoint_name, reason)
        words = "; ".join(dict.fromkeys(action.reason for action in decision.actions)) or decision.waiting_for
        if decision.waiting_for and not decision.actions and decision.waiting_for != self._said:
            log.info("%s: no more blocks: %s", site.endpoint_name, decision.waiting_for)
        self._said = decision.waiting_for
        begun, surplus = decision.memory.begun, decision.memory.surplus_since
        if (begun, surplus) != (site.memory.begun, site.memory.surplus_since):
            sites.remember(
                self._fed, self._no, lambda memory: replace(memory, begun=begun, surplus_since=surplus)
            )
        if words:
            sites.decided(self._fed, site, words[:1000], self._clock())

    def _frozen(self, message: str) -> None:
        """The site cannot be worked with: nothing is assumed, and it is tried again later and later."""
        self._failures += 1
        patience = min(self._machine.site.settings.interval * 2 ** min(self._failures - 1, 6), MOST_PATIENCE)
        self._next_look = self._clock() + patience
        log.warning("%s: frozen, next try in %.0f s: %s", self._machine.site.endpoint_name, patience, message)
        sites.note(self._fed, self._no, status="unreachable", message=message[:1000])

    def _farewell(self, site: sites.Site) -> None:
        """End what a deleted endpoint has on its site; tried again until it is done."""
        if not self._leaving:
            self._leaving, self._next_look = True, 0.0
        if self._clock() < self._next_look:
            return
        try:
            left = teardown.leave(self._fed, self._machine)
        except SiteError as error:
            if teardown.hopeless(site, self._clock()):
                teardown.finish(self._fed, site)
                return
            self._frozen(f"the endpoint is deleted and its site is still to be cleaned: {error.message}")
            return
        self._next_look = self._clock() + site.settings.interval
        if left:
            message = f"the endpoint is deleted; {len(left)} jobs are ending"
            sites.note(self._fed, self._no, status="removing", message=message)
        else:
            log.info("%s: its site is clean", site.endpoint_name)

    def close(self) -> None:
        """Close the connections; blocks go on."""
        self._machine.close()
