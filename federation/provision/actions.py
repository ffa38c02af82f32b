"""Carry out decisions: submit in two phases, drain through the broker, cancel through the scheduler."""

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
from .schedulers.base import JobSpec, LimitReached, OutcomeUnknown, Refused
from .site.machine import Machine
from .site.network import Installation, route_options

log = logging.getLogger(__name__)

#: Seconds after which the scheduler is asked for a job whose submission got no answer.
RESOLVE_SUBMISSION_AFTER = 31.0


class Actions:
    """Carries out actions on sites. ``clock`` returns seconds since 1970."""

    def __init__(self, fed: Federation, clock: Callable[[], float]):
        self._fed = fed
        self._clock = clock

    def perform(self, machine: Machine, env: str, view: View, decision: Decision) -> float | None:
        """Carry out a decision; return when to poll the scheduler next (None: at the usual time).

        Raises SiteError.
        """
        cancels = [action for action in decision.actions if action.verb is Verb.CANCEL]
        if cancels:
            self._cancel(machine, cancels)
        for action in decision.actions:
            if action.verb is Verb.DRAIN:
                self._drain(machine.site, action.block)
        new = [action for action in decision.actions if action.verb is Verb.SUBMIT]
        for _ in new:
            if not self._submit(machine, env, view):
                return self._clock() + RESOLVE_SUBMISSION_AFTER
        return self._clock() + machine.site.settings.interval if new else None

    def _submit(self, machine: Machine, env: str, view: View) -> bool:
        """Submit one block; False if no further block may be submitted now. Raises SiteError."""
        site, now = machine.site, self._clock()
        name = blocks.new_name(site.endpoint_id)
        try:
            spec = job_spec(machine, env, name, view)
            scheduler = machine.scheduler()
            scheduler.script(spec)
        except BadRequest as error:
            message = error.message
            sites.update_planner_state(
                self._fed, site.endpoint_no, lambda m: failures.invalid_settings(m, message)
            )
            return False
        blocks.add(self._fed, site.endpoint_no, name, site.policy, now)
        try:
            id = scheduler.submit(machine.shell, spec)
        except OutcomeUnknown as error:
            log.warning(
                "%s: it is unknown whether job %s exists: %s", site.endpoint_name, name, error.message
            )
            blocks.change(self._fed, name, reason=error.message[:500])
            return False
        except Refused as error:
            self._refused(site, name, error)
            return False
        blocks.change(self._fed, name, state=BlockState.PENDING, job_id=id)
        if site.planner_state.failed_submits:
            sites.update_planner_state(self._fed, site.endpoint_no, failures.accepted)
        return True

    def _refused(self, site: sites.Site, name: str, error: Refused) -> None:
        now, message = self._clock(), error.message
        log.warning("%s: block %s was not submitted: %s", site.endpoint_name, name, message)
        blocks.change(
            self._fed, name, state=BlockState.FAILED, ended=now, reason=f"not submitted: {message}"[:500]
        )
        if isinstance(error, LimitReached):
            sites.update_planner_state(self._fed, site.endpoint_no, lambda m: failures.limit_reached(m, now))
        else:
            sites.update_planner_state(
                self._fed, site.endpoint_no, lambda m: failures.refused(m, site.policy, now, message)
            )

    def _drain(self, site: sites.Site, name: str) -> None:
        """Ask the block's workers to shut down; after ``grace`` seconds it is cancelled."""
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
            log.warning(
                "%s: block %s: the request to drain could not be sent: %s", site.endpoint_name, name, error
            )

    def _cancel(self, machine: Machine, actions: list[Action]) -> None:
        now = self._clock()
        with self._fed.database.read() as connection:
            ids = {row.name: row.job_id for row in blocks.active(connection, machine.site.endpoint_no)}
        names_to_cancel = [action.block for action in actions if ids.get(action.block)]
        for name in names_to_cancel:
            blocks.change(self._fed, name, cancelled=now)
        machine.scheduler().cancel(machine.shell, [ids[name] for name in names_to_cancel])


def job_spec(machine: Machine, env: str, name: str, view: View) -> JobSpec:
    """Describe the job of a new block. Raises SiteError if no route leads from its workers to the broker."""
    site = machine.site
    policy, settings = site.policy, site.settings
    command = [
        "env",
        f"UMBEL_HOME={machine.folder}",
        f"{env}/bin/umbel-endpoint",
        "start",
        site.endpoint_name,
    ]
    command += ["--slots", str(policy.slots_per_node)]
    # a worker also takes no call that is expected to run past the end of its job
    command += [
        "--drain-margin",
        str(int(policy.drain_margin)),
        "--exit-when-broker-gone",
        str(int(settings.broker_gone)),
    ]
    # the provisioner drains idle blocks; this option ends them if the provisioner no longer runs
    command += ["--exit-when-idle", str(int(10 * policy.idle_time + 600))]
    routes = machine.network.routes(Installation(machine.folder, env, site.endpoint_name), site.route)
    command += route_options(routes)
    return JobSpec(
        name,
        tuple(command),
        machine.blocks,
        nodes=policy.nodes_per_block,
        slots_per_node=policy.slots_per_node,
        walltime=policy.walltime,
        directives=settings.directives,
        setup=settings.setup,
        launcher=settings.launcher,
        exclude=tuple(view.planner_state.bad_nodes),
    )
