"""Doing what was decided: submit in two phases, drain through the broker, cancel through the scheduler."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sqlalchemy import select

from umbel.protocol import names
from umbel.protocol.errors import BadRequest

from ..broker.client import BrokerError
from ..context import Federation
from ..db.tables import nodes
from .planning import failures
from .planning.model import Action, BlockState, Decision, Verb, View
from .records import blocks, sites
from .schedulers.base import InDoubt, JobSpec, LimitReached, Refused
from .site.machine import Machine
from .site.network import Place, way_words

log = logging.getLogger(__name__)

#: Seconds after which a job whose submission got no answer is looked for.
LOOK_FOR_LOST = 31.0


class Hands:
    """Acts on sites. ``clock``: seconds since 1970."""

    def __init__(self, fed: Federation, clock: Callable[[], float]):
        self._fed = fed
        self._clock = clock

    def act(self, machine: Machine, env: str, view: View, decision: Decision) -> float | None:
        """Do it all; return when the scheduler should be looked at, None: as usual. Raises SiteError."""
        cancels = [action for action in decision.actions if action.verb is Verb.CANCEL]
        if cancels:
            self._cancel(machine, cancels)
        for action in decision.actions:
            if action.verb is Verb.DRAIN:
                self._drain(machine.site, action.block)
        new = [action for action in decision.actions if action.verb is Verb.SUBMIT]
        for _ in new:
            if not self._submit(machine, env, view):
                return self._clock() + LOOK_FOR_LOST
        return self._clock() + machine.site.settings.interval if new else None

    def _submit(self, machine: Machine, env: str, view: View) -> bool:
        """One block; False: submit no more now. Raises SiteError."""
        site, now = machine.site, self._clock()
        name = blocks.new_name(site.endpoint_id)
        try:
            spec = job_spec(machine, env, name, view)
            scheduler = machine.scheduler()
            scheduler.script(spec)
        except BadRequest as error:
            message = error.message
            sites.remember(self._fed, site.endpoint_no, lambda m: failures.broken(m, message))
            return False
        blocks.add(self._fed, site.endpoint_no, name, site.policy, now)
        try:
            id = scheduler.submit(machine.shell, spec)
        except InDoubt as error:
            log.warning("%s: %s: whether %s exists is not known", site.endpoint_name, error.message, name)
            blocks.change(self._fed, name, reason=error.message[:500])
            return False
        except Refused as error:
            self._refused(site, name, error)
            return False
        blocks.change(self._fed, name, state=BlockState.PENDING, job_id=id)
        if site.memory.failed_submits:
            sites.remember(self._fed, site.endpoint_no, failures.accepted)
        return True

    def _refused(self, site: sites.Site, name: str, error: Refused) -> None:
        now, message = self._clock(), error.message
        log.warning("%s: %s", site.endpoint_name, message)
        blocks.change(
            self._fed, name, state=BlockState.FAILED, ended=now, reason=f"not submitted: {message}"[:500]
        )
        if isinstance(error, LimitReached):
            sites.remember(self._fed, site.endpoint_no, lambda m: failures.limited(m, now))
        else:
            sites.remember(
                self._fed, site.endpoint_no, lambda m: failures.refused(m, site.policy, now, message)
            )

    def _drain(self, site: sites.Site, name: str) -> None:
        """Ask the block's workers to leave; those that do not hear are cancelled after the grace."""
        now = self._clock()
        blocks.change(self._fed, name, state=BlockState.DRAINING, drained=now)
        query = select(nodes.c.name).where(
            nodes.c.endpoint_no == site.endpoint_no, nodes.c.live == 1, nodes.c.name.like(f"{name}.%")
        )
        with self._fed.database.read() as connection:
            workers = [f"worker@{site.endpoint_name}.{node}" for node in connection.execute(query).scalars()]
        try:
            self._fed.broker.control(site.endpoint_id, names.LEAVE_COMMAND, {"reason": "drained"}, workers)
        except BrokerError as error:
            log.warning("%s: %s was not told to leave: %s", site.endpoint_name, name, error)

    def _cancel(self, machine: Machine, actions: list[Action]) -> None:
        now = self._clock()
        with self._fed.database.read() as connection:
            ids = {row.name: row.job_id for row in blocks.active(connection, machine.site.endpoint_no)}
        wanted = [action.block for action in actions if ids.get(action.block)]
        for name in wanted:
            blocks.change(self._fed, name, cancelled=now)
        machine.scheduler().cancel(machine.shell, [ids[name] for name in wanted])


def job_spec(machine: Machine, env: str, name: str, view: View) -> JobSpec:
    """The job of a new block. Raises SiteError when its workers could not reach the broker."""
    site = machine.site
    policy, settings = site.policy, site.settings
    words = ["env", f"UMBEL_HOME={machine.folder}", f"{env}/bin/umbel-endpoint", "start", site.endpoint_name]
    words += ["--slots", str(policy.slots_per_node)]
    # besides, a worker takes no call of which it is told that it will probably outlive its job
    words += [
        "--drain-margin",
        str(int(policy.drain_margin)),
        "--exit-when-broker-gone",
        str(int(settings.broker_gone)),
    ]
    # the provisioner drains idle blocks; this is for the case that there is none any more
    words += ["--exit-when-idle", str(int(10 * policy.idle_time + 600))]
    ways = machine.network.ways(Place(machine.folder, env, site.endpoint_name), site.way)
    words += way_words(ways)
    return JobSpec(
        name,
        tuple(words),
        machine.blocks,
        nodes=policy.nodes_per_block,
        slots_per_node=policy.slots_per_node,
        walltime=policy.walltime,
        directives=settings.directives,
        setup=settings.setup,
        launcher=settings.launcher,
        exclude=tuple(view.memory.bad_nodes),
    )
