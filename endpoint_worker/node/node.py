"""A worker node and its parts, independent of Celery."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from umbel.protocol import limits, names
from umbel.protocol.envelope import Signer, Verifier
from umbel.protocol.errors import ProtocolError
from umbel.protocol.messages import Bundle, Outcome, Status
from umbel.system.threads import GuardedThread

from ..broker.client import connect
from ..broker.clock import BrokerClock
from ..child.linux import adopt_orphans
from ..config.directory import EndpointDirectory
from ..config.settings import Settings
from ..intake.receive import FunctionCache, Intake, Unavailable
from ..intake.router import Router
from ..reporting.outbox import Outbox
from ..reporting.presence import Load, Origin
from ..runners import cgroups
from ..runners.job import Accepted, Job, ignore, unstarted
from ..runners.options import RunnerOptionsBuilder, runner_options
from ..scheduling.supervisor import Supervisor
from . import inventory
from .adoption import Adoption
from .callbacks import CallbackThread
from .cancelled import CancelledCalls
from .grants import Grants

log = logging.getLogger(__name__)

#: Called when a message has ended: with a sentence about its failed calls, or "" if none has failed.
Done = Callable[[str], None]

#: A rejected message is part of the node's description for this long (seconds); clock differences are a
#: frequent cause.
REPORT_REFUSED = 600.0
#: Seconds that a node which shuts down waits until the service has taken its reports.
ACKNOWLEDGE_SECONDS = 4.0


def _fits(bundle: Bundle) -> bool:
    return True


class Node:
    """One running worker node of an endpoint. ``name``: its name, kept across restarts.

    ``route``: how it reaches the broker, if there was a choice.
    """

    def __init__(self, directory: EndpointDirectory, settings: Settings, name: str, route: str = ""):
        credentials = directory.credentials()
        self.endpoint = credentials.endpoint_id
        self.name = name
        self.settings = settings
        self.broker_url = settings.broker_url(credentials.broker_url)
        self.clock = BrokerClock()
        signer = Signer(directory.signing_key())
        self.grants = Grants(signer, credentials, settings, self.clock.now)
        self.outbox = self._make_outbox(directory, signer)
        self._adoption = Adoption(directory, name, self.outbox.adopt)
        #: for everything except fetches and reports; shared by several threads
        self.client = connect(self.broker_url, timeout=5.0)
        self.intake = self._make_intake(directory, Verifier(credentials.service_key))
        self.callbacks = CallbackThread()
        groups = cgroups.find() if settings.cgroup else None
        options = replace(runner_options(directory, settings), cgroups=groups)
        self.options_builder = RunnerOptionsBuilder(options)
        self.supervisor = Supervisor(
            self.options_builder.base,
            settings.worker_slots,
            self.outbox.add,
            self.callbacks.submit,
            adopts_orphans=adopt_orphans(),
        )
        #: whether a bundle's calls can end before this node does; replaced by ``ShutdownMonitor``
        self.fits: Callable[[Bundle], bool] = _fits
        self.route = route
        self.router = self._make_router(directory)
        self._cancelled = CancelledCalls(self.endpoint, self.client, self.cancel)
        self._refused = (-REPORT_REFUSED, "")
        self._inventory = {**inventory.of_node(), "packages": inventory.packages()}
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._upkeep = GuardedThread(self._upkeep_loop, name="umbel-upkeep", stop=self._stopped)

    def _make_outbox(self, directory: EndpointDirectory, signer: Signer) -> Outbox:
        origin = Origin(self.endpoint, self.name, names.new_id(), directory.next_incarnation())
        client = connect(self.broker_url)
        outbox = Outbox(signer, origin, directory.spool / self.name, client, self, self.clock)
        self._leases = (f"{origin.instance} {count}" for count in itertools.count())
        outbox.renew_lease(next(self._leases))
        return outbox

    def _make_intake(self, directory: EndpointDirectory, verifier: Verifier) -> Intake:
        return Intake(
            self.endpoint,
            verifier,
            FunctionCache(directory.cache / "functions"),
            self.client,
            self.clock.now,
            rules=self.settings.rules,
            sandboxed=self.settings.sandbox.kind != "none",
        )

    def _make_router(self, directory: EndpointDirectory) -> Router:
        chosen = self.settings
        outputs = self.supervisor.submit, self.outbox.add, self.callbacks.submit
        return Router(chosen.environments, chosen.rules, self.options_builder, directory.cache, *outputs)

    def start_runners(self) -> None:
        """Start the runners, before everything else, because they take a moment to be ready."""
        self.supervisor.start()

    def start(self) -> None:
        """Start the threads: runners if not started yet, reports, upkeep."""
        self.outbox.start()
        self.callbacks.start()
        for thread in (self.supervisor, self._upkeep):
            if thread.ident is None:
                thread.start()

    def receive(self, raw: bytes | str, on_accept: Accepted, on_done: Done) -> None:
        """Receive a message. Both callbacks are always called eventually, from another thread."""
        self.outbox.fetches.received()
        try:
            if self._receive(raw, on_accept, on_done):
                return
        except Exception:
            # an unexpected error must not end the worker; the service sends the bundle again
            log.exception("message dropped: unexpected error")
            self._refused = (time.monotonic(), "a message was dropped because of an unexpected error")
        self.callbacks.submit([partial(on_accept, "", 0), partial(on_done, "")])

    def _receive(self, raw: bytes | str, on_accept: Accepted, on_done: Done) -> bool:
        """Receive a message; return False if the callbacks are still to be called."""
        try:
            bundle, function, refused = self.intake.open(raw)
        except ProtocolError as error:
            # no report is possible for a bundle of unknown origin; the service detects the loss and sends it
            # again
            log.error("message dropped: %s", error)
            self._refused = (time.monotonic(), f"a message was rejected: {error.message}")
        except Unavailable as error:
            log.warning("bundle %s returned: %s", error.bundle.id, error.message)
            self.outbox.add(error.bundle.id, error.outcomes)
        else:
            if self.holds(bundle.id):
                log.warning("bundle %s received twice; ignoring the second copy", bundle.id)
            elif (why := self._unfit(bundle)) is not None:
                self.outbox.add(bundle.id, [*unstarted(bundle, why), *refused])
            else:
                job = Job(bundle, function, on_accept, access=self.grants.for_bundle(bundle))
                job.on_done = partial(_finish, job, on_done)
                job.refused = len(refused)
                job.count(refused)
                if not self._run_or_report(job, refused):
                    self.callbacks.submit([partial(on_accept, "", 0), job.on_done])
                return True
        return False

    def _unfit(self, bundle: Bundle) -> str | None:
        """Return why a bundle cannot run on this node now, or None."""
        if not self.fits(bundle):
            return "the worker ends before the call could finish"
        return "the endpoint cannot store results: its disk is full" if self.outbox.full else None

    def _run_or_report(self, job: Job, refused: list[Outcome]) -> bool:
        """Run a bundle, or report its calls as lost after an unexpected error; return whether calls run."""
        try:
            return self._run(job, refused)
        except Exception as error:
            log.exception("bundle %s: unexpected error", job.bundle.id)
            running = job.bundle.id in {*self.router.held, *self.supervisor.held}
            message = f"unexpected error on the endpoint: {error!r}"[:300]
            lost = [Outcome(c.task_id, c.attempt, Status.LOST, message=message) for c in job.bundle.calls]
            if not running:
                job.count(lost)
            self.outbox.add(job.bundle.id, refused if running else [*lost, *refused])
            return running

    def _run(self, job: Job, refused: list[Outcome]) -> bool:
        """Run a bundle's calls and report those that may not run; return False if none may run."""
        # run first: a bundle with unsent reports counts as held
        if job.bundle.calls:
            self.router.route(job)
        if refused:
            self.outbox.add(job.bundle.id, refused)
        return bool(job.bundle.calls)

    def held(self) -> list[str]:
        """Ids of bundles with calls whose outcomes are not all in the ledger."""
        # the supervisor's list first: a bundle that ends in between is then in both, never in neither
        return list({*self.router.held, *self.supervisor.held, *self.outbox.held})

    def holds(self, bundle_id: str) -> bool:
        """Return whether a bundle is one of ``held``."""
        return (
            bundle_id in self.router.held or bundle_id in self.supervisor.held or self.outbox.holds(bundle_id)
        )

    def working(self) -> bool:
        """Return whether calls run or wait, or outcomes have not reached the broker."""
        return bool(self.router.held or self.supervisor.held or self.outbox.unsent)

    def give_back(self, message: bytes) -> None:
        """Return the calls of a message that was fetched, but not received before its connection broke."""
        try:
            bundle = self.intake.give_back(message)
            if not self.holds(bundle.id):
                log.warning("bundle %s returned: it was fetched, and its connection broke", bundle.id)
                self.outbox.add(bundle.id, unstarted(bundle, "the connection to the broker broke"))
        except ProtocolError as error:
            log.error("message dropped: %s", error)
        except Exception:
            # an unexpected error must not stop the outbox; the service sends the bundle again
            log.exception("message dropped: unexpected error")

    def cancel(self, task_ids: Iterable[str]) -> None:
        """Skip or stop these calls."""
        chosen = set(task_ids)
        self.router.cancel(chosen)
        self.supervisor.cancel(chosen)

    def on_connected(self) -> None:
        """Write a beat and read cancelled calls now: the broker is reachable (again)."""
        # before the first bundle, whose signature has dates
        self.clock.measure(self.client)
        self._cancelled.start_over()
        self._refused = (-REPORT_REFUSED, "")
        self.outbox.beat_soon()
        self._wake.set()

    def drain(self, *, at_once: bool = False) -> threading.Event:
        """Stop accepting bundles; the event is set when no bundle is left."""
        self.router.close()
        return self.supervisor.drain(0.0 if at_once else self.settings.drain_seconds)

    def close(self) -> None:
        """Return what is left, send a goodbye, and end the threads."""
        self.drain().wait(self.settings.drain_seconds + 3.0)
        self._stopped.set()
        self._wake.set()
        self.supervisor.stop()
        self.callbacks.close(2.0)
        if not self.outbox.close(ACKNOWLEDGE_SECONDS):
            log.warning("the service has not taken all reports; they remain in the spool for the next start")

    def _upkeep_loop(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            self.outbox.renew_lease(next(self._leases))
            # first: signatures need it
            self.clock.measure(self.client)
            self._cancelled.poll()
            self.router.release_unused(self.supervisor.keys)
            self._adoption.poll()
            self._wake.wait(limits.HEARTBEAT_INTERVAL)

    def load(self) -> Load:
        """Return what changes all the time."""
        supervisor = self.supervisor
        return Load(supervisor.busy, supervisor.waiting, os.getloadavg()[0], -self.clock.offset)

    def describe(self) -> tuple[int, dict[str, Any]]:
        """Return the number of slots, and the facts about this node."""
        facts = dict(self._inventory)
        if self.route:
            facts["way"] = self.route
        problem = self.supervisor.problem
        if not problem and time.monotonic() - self._refused[0] < REPORT_REFUSED:
            problem = self._refused[1]
        if problem:
            facts["problem"] = problem[:500]
        return self.supervisor.slots, facts


def _finish(job: Job, on_done: Done) -> None:
    """Call ``on_done``. Afterwards the job is in no cycle: its arguments, maybe large, are freed at once."""
    job.on_done = ignore
    on_done(job.failure())
