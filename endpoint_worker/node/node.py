"""A worker node: what it is made of, apart from Celery."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Any

from umbel.protocol import limits, names
from umbel.protocol.envelope import Signer, Verifier
from umbel.protocol.errors import ProtocolError
from umbel.protocol.messages import Bundle, Heartbeat, Outcome

from ..broker.client import BROKER_ERRORS, connect
from ..child.linux import adopt_orphans
from ..config.directory import EndpointFolder
from ..config.settings import Settings
from ..intake.receive import FunctionCache, Intake, Unavailable
from ..intake.router import Reception
from ..reporting.outbox import Origin, Outbox
from ..runners import cgroups
from ..runners.job import Accepted, Job, unstarted
from ..runners.options import Places, runner_options
from ..scheduling.supervisor import Supervisor
from . import inventory

log = logging.getLogger(__name__)

#: A cancelled call is looked for this long (seconds) before the newest one that was seen: clocks and
#: transactions overlap.
OVERLAP = 60.0
#: That a message was refused is told with heartbeats for so long (seconds): often two clocks differ.
TELL_REFUSED = 600.0
#: With so many heartbeats after each connection what is installed here is told.
INTRODUCTIONS = 2


def _fits(bundle: Bundle) -> bool:
    return True


class Teller(threading.Thread):
    """Runs callbacks one after another, so that whoever has them need not wait for what they do."""

    def __init__(self) -> None:
        super().__init__(name="umbel-teller", daemon=True)
        self._inbox: SimpleQueue[list[Callable[[], None]] | None] = SimpleQueue()

    def tell(self, callbacks: list[Callable[[], None]]) -> None:
        """Have these called soon."""
        self._inbox.put(callbacks)

    def close(self, timeout: float) -> None:
        """Run what there is and end."""
        self._inbox.put(None)
        self.join(timeout)

    def run(self) -> None:
        """Run callbacks until ``close``."""
        while (callbacks := self._inbox.get()) is not None:
            for callback in callbacks:
                try:
                    callback()
                except Exception:
                    # Celery's bookkeeping over a broken connection may raise anything; bundles go on
                    log.warning("a bundle's progress could not be told to Celery", exc_info=True)


class Node:
    """One running worker node of an endpoint. ``name``: its name, kept over restarts.

    ``way``: what is said of how it reaches the broker, if there was a choice.
    """

    def __init__(self, folder: EndpointFolder, settings: Settings, name: str, way: str = ""):
        credentials = folder.credentials()
        self.endpoint = credentials.endpoint_id
        self.name = name
        self.settings = settings
        self.broker_url = settings.broker_url(credentials.broker_url)
        origin = Origin(self.endpoint, name, names.new_id())
        self.outbox = Outbox(
            Signer(folder.signing_key()), origin, folder.spool / name, connect(self.broker_url)
        )
        self.intake = Intake(
            self.endpoint,
            Verifier(credentials.service_key),
            FunctionCache(folder.cache / "functions"),
            connect(self.broker_url, timeout=5.0),
            rules=settings.rules,
            closed=settings.sandbox.kind != "none",
        )
        self.teller = Teller()
        options = runner_options(folder, settings)
        self.places = Places(replace(options, cgroups=cgroups.find() if settings.cgroup else None))
        self.supervisor = Supervisor(
            self.places.base,
            settings.worker_slots,
            self.outbox.add,
            self.teller.tell,
            sweeps=adopt_orphans(),
        )
        #: whether a bundle's calls can end before this node does; set by whoever knows the node's end
        self.fits: Callable[[Bundle], bool] = _fits
        self.way = way
        self.reception = self._open_reception(folder)
        self._client = connect(self.broker_url, timeout=5.0)
        self._newest_cancelled = 0.0
        self._refused = (-TELL_REFUSED, "")
        self._standing, self._packages = inventory.of_node(), inventory.packages()
        self._introduce = INTRODUCTIONS
        self._ear = threading.Event()
        self._over = False
        self._pulse = threading.Thread(target=self._beat_for_ever, name="umbel-pulse", daemon=True)

    def _open_reception(self, folder: EndpointFolder) -> Reception:
        chosen = self.settings
        to = self.supervisor.submit, self.outbox.add, self.teller.tell
        return Reception(chosen.environments, chosen.rules, self.places, folder.cache, *to)

    def hire(self) -> None:
        """Start the runners, before all else: they take a moment to be ready."""
        self.supervisor.start()

    def start(self) -> None:
        """Start the threads: runners if they are not there yet, reports, heartbeat."""
        for thread in (self.supervisor, self.outbox, self.teller, self._pulse):
            if thread.ident is None:
                thread.start()

    def take(self, raw: bytes | str, on_accept: Accepted, on_done: Callable[[], None]) -> None:
        """Take a message. Both callbacks are called in any case, sooner or later, from another thread."""
        try:
            bundle, function, refused = self.intake.open(raw)
        except ProtocolError as error:
            # nothing can be reported of a bundle that may be anybody's; the service misses it and sends again
            log.error("a message is dropped: %s", error)
            self._refused = (time.monotonic(), f"a message was refused: {error.message}")
        except Unavailable as error:
            log.warning("bundle %s goes back: %s", error.bundle.id, error.message)
            self.outbox.add(error.bundle.id, error.outcomes)
        else:
            if bundle.id in self.held():
                log.warning("bundle %s came twice", bundle.id)
            elif not self.fits(bundle):
                self.outbox.add(bundle.id, [*unstarted(bundle, "its worker ends before"), *refused])
            elif self._run(Job(bundle, function, on_accept, on_done), refused):
                return
        self.teller.tell([partial(on_accept, "", 0), on_done])

    def _run(self, job: Job, refused: list[Outcome]) -> bool:
        """Have a bundle's calls run and tell of those that may not; False if none may."""
        # first what runs: a bundle of which something is unsent counts as held
        if job.bundle.calls:
            self.reception.take(job)
        if refused:
            self.outbox.add(job.bundle.id, refused)
        return bool(job.bundle.calls)

    def held(self) -> list[str]:
        """Ids of bundles whose calls are not all accounted for at the service."""
        # the supervisor's list first: a bundle that ends in between is then in both, never in none
        return list({*self.reception.held, *self.supervisor.held, *self.outbox.unsent})

    def cancel(self, task_ids: Iterable[str]) -> None:
        """Skip or stop these calls."""
        chosen = set(task_ids)
        self.reception.cancel(chosen)
        self.supervisor.cancel(chosen)

    def poke(self) -> None:
        """Send a heartbeat and look for cancelled calls now: the broker is there (again)."""
        self._newest_cancelled = 0.0
        self._refused = (-TELL_REFUSED, "")
        self._introduce = INTRODUCTIONS
        self._ear.set()

    def drain(self, *, at_once: bool = False) -> threading.Event:
        """Stop taking bundles; the event is set when nothing is held any more."""
        self.reception.close()
        return self.supervisor.drain(0.0 if at_once else self.settings.drain_seconds)

    def close(self) -> None:
        """Give back what is left, say goodbye, end the threads."""
        self.drain().wait(self.settings.drain_seconds + 3.0)
        self._over = True
        self._ear.set()
        self.supervisor.stop()
        self.teller.close(2.0)
        if not self.outbox.close(3.0):
            log.warning("some reports are kept in the spool and are sent at the next start")

    def _beat_for_ever(self) -> None:
        while not self._over:
            self._ear.clear()
            self.outbox.heartbeat(self._heartbeat)
            self._hear_cancelled()
            self.reception.tidy(self.supervisor.keys)
            self._ear.wait(limits.HEARTBEAT_INTERVAL)

    def _heartbeat(self) -> Heartbeat:
        supervisor = self.supervisor
        return Heartbeat(supervisor.slots, supervisor.busy, self.held(), self._facts())

    def _facts(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            **self._standing,
            "load": round(os.getloadavg()[0], 2),
            "queue": self.supervisor.waiting,
            "time": time.time(),
        }
        if self._introduce > 0:
            # large, and always the same: the service keeps them
            self._introduce -= 1
            said["packages"] = self._packages
        if self.way:
            said["way"] = self.way
        problem = self.supervisor.problem
        if not problem and time.monotonic() - self._refused[0] < TELL_REFUSED:
            problem = self._refused[1]
        if problem:
            said["problem"] = problem[:500]
        return said

    def _hear_cancelled(self) -> None:
        """Learn what was cancelled while no control command could reach this node."""
        key = names.cancelled_key(self.endpoint)
        try:
            found: Any = self._client.zrangebyscore(
                key, self._newest_cancelled - OVERLAP, "+inf", withscores=True
            )
        except BROKER_ERRORS as error:
            log.debug("cancelled calls cannot be read now: %s", error)
            return
        if found:
            self._newest_cancelled = max(score for _, score in found)
            self.cancel(task_id.decode() for task_id, _ in found)
