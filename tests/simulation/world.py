"""One schedule: actors, faults, and what must hold after every step."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from federation.broker.client import BrokerError
from federation.services.collector import Collector
from tests.simulation.clients import Clients
from tests.simulation.nodes import SimNode
from tests.simulation.site import Place, SimSweeper, Site
from tests.support import invariants
from umbel.protocol import names
from umbel.protocol.messages import Call, Status

#: Steps of a schedule with faults; then ticks of 5 s until every task must have ended.
STEPS, TICKS = 14, 60
#: Chance of a kill, and of another step, at each bound of a transaction of a service.
KILLED, INTERRUPTED = 0.015, 0.08
#: Longest time that a bundle is on its way to the broker, seconds: it may be sent again in the meantime.
LATE = 25.0


class Violation(AssertionError):
    """Something that must hold does not hold."""


class Crash(BaseException):
    """A process of the service is killed."""


class _Once:
    """A stop event that is set after one turn of a loop."""

    def __init__(self) -> None:
        self._asked = False

    def is_set(self) -> bool:
        """Return False the first time."""
        self._asked, before = True, self._asked
        return before

    def wait(self, timeout: float | None = None) -> bool:
        """Return at once."""
        return True


class World(logging.Handler):
    """Everything that exists in one schedule."""

    def __init__(self, site: Site, chance: random.Random):
        super().__init__(logging.WARNING)
        site.reset()
        self.site, self.chance, self.clock = site, chance, site.clock
        self.faulty = True
        self.trace: list[str] = []
        self.errors: list[str] = []
        self.starts: Counter[str] = Counter()
        self.interrupted: Counter[str] = Counter()
        self.ended: dict[str, set[tuple[str, str | None, bytes]]] = {}
        self.past_reports: list[tuple[Place, bytes]] = []
        self._attempts: set[tuple[str, int]] = set()
        self._ends: dict[str, tuple[Any, ...]] = {}
        self._down_until = 0.0
        self._active: list[str] = []
        self.clients = Clients(self)
        self.collectors = [Collector(site.fed, f"c{number}") for number in range(2)]
        self.sweepers = [SimSweeper(site.fed) for _ in range(2)]
        places = site.places[: chance.choice([1, 1, 2])]
        self.nodes = [SimNode(self, place, f"n{number}") for number in range(2) for place in places]
        site.store.network = self._network
        site.broker.fate = self._fate
        site.database.hook = self._between_transactions

    # What happened

    def note(self, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{'':9} {'  ' * len(self._active)}{what}")

    def started(self, node: SimNode, call: Call) -> None:
        """A node starts a call."""
        if call[:2] in self._attempts:
            self.errors.append(f"attempt {call.attempt} of task {call.task_id} was started twice")
        self._attempts.add(call[:2])
        self.starts[call.task_id] += 1
        self.note(f"{node.name} starts attempt {call.attempt} of {call.task_id}")

    def ends(self, call: Call, status: str, code: str | None, payload: bytes) -> None:
        """A node knows the end of a call."""
        known = self.ended.setdefault(call.task_id, set())
        if status == Status.SUCCEEDED:
            known.add(("succeeded", None, payload))
        elif status == Status.FAILED:
            known.add(("failed", code, b""))

    def emit(self, record: logging.LogRecord) -> None:
        """Note errors that a service has logged and survived, unless the simulated broker was their cause."""
        words = record.args if isinstance(record.args, tuple) else ()
        raised = [word for word in words if isinstance(word, Exception)]
        if record.exc_info and isinstance(record.exc_info[1], Exception):
            raised.append(record.exc_info[1])
        self.note(record.getMessage()[:150])
        if any(not isinstance(each, BrokerError) for each in raised) or record.levelno >= logging.ERROR:
            self.errors.append(f"logged: {record.getMessage()} {raised!r}")
        elif "the database rejects" in record.getMessage():
            # the reports of these nodes are valid
            self.errors.append(f"logged: {record.getMessage()}")

    # One schedule

    def run(self) -> None:
        """Run the schedule. Raises Violation."""
        self.faulty = False
        self.do("first sweep", self.sweepers[0].sweep)
        self.faulty = True
        self.do("start of a node", self.nodes[0].start)
        if self.chance.random() < 0.7:
            # it may fetch bundles from the first step on
            self.do("look", self.sweepers[0].watch_nodes)
            self.do("beat", self.nodes[0].beat)
        for _ in range(STEPS):
            self.step()
            self.check()
        self.heal()

    def step(self) -> None:
        """One step of a random actor."""
        # what nodes hold makes a difference
        wipe = 1.5 if any(node.held for node in self.nodes if node.alive) else 0.2
        kinds = {
            self.clients.submit: 3, self.clients.submit_again: 1, self.clients.cancel: 1.5,
            self.clients.poll: 2, self._node: 13, self._collect: 6, self._sweep: 3, self._time: 4,
            self._cancel_commands: 1, self._replay: 1, self._shuffle: 0.4, self._outage: 0.4,
            self._wipe: wipe,
        }  # fmt: skip
        (kind,) = self.chance.choices(list(kinds), list(kinds.values()))
        kind()

    def do(self, what: str, act: Callable[[], Any]) -> bool:
        """Run one action of a process that may be killed, or see the broker down; return if it survived."""
        self.trace.append(f"{self.clock.now - 1.8e9:9.3f} {'  ' * len(self._active)}{what}")
        self._active.append(what)
        try:
            act()
        except BrokerError:
            self.note("broker unreachable")
        except Crash:
            self.note(f"{what}: killed")
            return False
        finally:
            self._active.pop()
        return True

    def _between_transactions(self) -> None:
        if not self.faulty or len(self._active) != 1:
            return
        luck = self.chance.random()
        if luck < KILLED:
            raise Crash
        if luck < INTERRUPTED:
            self.step()

    def _network(self) -> str | None:
        if self.clock.now < self._down_until:
            return "refused"
        luck = self.chance.random() if self.faulty else 1.0
        return "refused" if luck < 0.008 else "cut" if luck < 0.012 else None

    def _fate(self, outgoing: Any) -> str | float | None:
        luck = self.chance.random() if self.faulty else 1.0
        if luck < 0.06:
            fate = "lost" if luck < 0.03 else "late"
            self.note(f"bundle {outgoing.bundle_id[:8]} is {fate}")
        return "lost" if luck < 0.03 else self.chance.uniform(0.0, LATE) if luck < 0.06 else None

    # Actors

    def _node(self) -> None:
        node = self.chance.choice(self.nodes)
        name = f"{node.name} of {node.place.id[:4]}"
        if not node.alive:
            self.do(f"start of {name}", node.start)
        elif node.suspended:
            self.note(f"resume of {name}")
            node.suspended = self.chance.random() < 0.5
        else:
            acts = {
                self._suspend: 0.5, SimNode.die: 0.6, SimNode.leave: 0.6, SimNode.beat: 3, SimNode.flush: 3,
                SimNode.take: 5, SimNode.work: 6,
            }  # fmt: skip
            (act,) = self.chance.choices(list(acts), list(acts.values()))
            self.do(f"{act.__name__} of {name}", lambda: act(node))

    @staticmethod
    def _suspend(node: SimNode) -> None:
        node.suspended = True

    def _collect(self) -> None:
        number = self.chance.randrange(2)
        what = f"collector {number}"
        if what in self._active:
            return
        if not self.do(what, lambda: self.collectors[number].run(_Once())):  # type: ignore[arg-type]
            self.collectors[number] = Collector(self.site.fed, f"c{number}")

    def _sweep(self) -> None:
        number = self.chance.randrange(2)
        what = f"sweeper {number}"
        if {what, f"look of {what}"}.intersection(self._active):
            return
        if not self.do(what, self.sweepers[number].sweep):
            self.sweepers[number] = SimSweeper(self.site.fed)

    def _cancel_commands(self) -> None:
        """Cancellations reach the nodes that run now, or get lost."""
        commands, self.site.broker.commands = self.site.broker.commands, []
        for endpoint_id, task_ids in commands:
            for node in self.nodes:
                if node.works and node.place.id == endpoint_id and self.chance.random() < 0.8:
                    node.cancel(task_ids)

    def _time(self) -> None:
        left = self.chance.choice([0.1, 1.0, 3.0, 6.0, 6.0, 14.0, 27.0])
        self.note(f"{left} s pass")
        while left > 0:
            self.clock.forward(min(left, 5.0))
            left -= 5.0
            self.do("delivery", self.site.broker.deliver)
            if len(self._active) > 0:
                continue  # other processes stand still
            for node in self.nodes:
                if node.works and self.chance.random() < 0.9:
                    self.do(f"beat of {node.name}", node.beat)
            for _ in range(2):
                self._collect()
            self._look()
            if self.chance.random() < 0.4:
                self._sweep()

    def _look(self) -> None:
        """Sweepers look at nodes more often than they are interrupted: silence counts without gaps only."""
        for number, sweeper in enumerate(self.sweepers):
            if self.chance.random() < 0.9 and not self.do(f"look of sweeper {number}", sweeper.watch_nodes):
                self.sweepers[number] = SimSweeper(self.site.fed)

    # Faults of the broker

    def _replay(self) -> None:
        """A report arrives once more: sent again by a node that saw no answer, or by an attacker."""
        if self.past_reports:
            place, sealed = self.chance.choice(self.past_reports)
            self.note("a report is sent again")
            self.do("replay", lambda: self.site.push_report(place, sealed))

    def _shuffle(self) -> None:
        """Bundles of several senders arrive in another order."""
        for place in self.site.places:
            self.chance.shuffle(self.site.store.data.get(names.queue_key(place.id), []))

    def _outage(self) -> None:
        self._down_until = self.clock.now + self.chance.choice([0.5, 4.0, 15.0])
        self.note(f"the broker is down until {self._down_until - 1.8e9:.1f}")

    def _wipe(self) -> None:
        if self.chance.random() < 0.5:
            self.note("the broker loses its data")
            self.site.store.wipe()
        else:
            place = self.chance.choice(self.nodes).place
            self.note(f"the keys of {place.id[:4]} are deleted: it exceeded its quota")
            self.site.store.wipe(names.prefix(place.id))
        if self.chance.random() < 0.5:
            # what this has changed is noticed while calls run
            self._time()

    # After the faults

    def heal(self) -> None:
        """Let everything work, and see every task end. Raises Violation."""
        self.faulty, self._down_until = False, 0.0
        self.note("faults end")
        for place in {node.place: None for node in self.nodes}:
            first, *others = [node for node in self.nodes if node.place is place]
            for node in others:
                if self.chance.random() < 0.4:
                    node.die()  # and it never comes back
                elif not node.alive:
                    self.do(f"start of {node.name}", node.start)
                node.suspended = False
            if not first.alive:
                self.do(f"start of {first.name}", first.start)
            first.suspended = False
        self.clients.submit_all_again()
        for _ in range(TICKS):
            if not self.site.rows("SELECT 1 FROM tasks WHERE finished IS NULL LIMIT 1"):
                break
            self.clock.forward(5.0)
            self.site.broker.deliver()
            for node in [node for node in self.nodes if node.alive]:
                node.beat()
                for act in (node.take, node.take, node.work, node.work, node.flush):
                    act()
            self._cancel_commands()
            for collector in self.collectors:
                self.do("collector", lambda each=collector: each.run(_Once()))  # type: ignore[misc]
            self.do("sweeper", self.sweepers[0].sweep)
            self.check()
        else:
            stuck = self.site.rows("SELECT id, state, attempt FROM tasks WHERE finished IS NULL")
            raise Violation(f"tasks never end: {stuck}")
        self.clients.follow_to_the_end()
        if self.site.rows("SELECT 1 FROM loads WHERE live <> 0 UNION ALL SELECT 1 FROM bundles"):
            raise Violation("loads or bundles are left although every task has ended")

    # What must hold

    def check(self) -> None:
        """Fail unless the ledger agrees with itself and with what was seen. Raises Violation."""
        if self.errors:
            raise Violation(self.errors[0])
        for (meaning,) in self.site.rows(_ALL):
            raise Violation(str(meaning))
        known = self.clients.tasks
        for row in self.site.rows(_TASKS):
            task_id, state, completion, code, size, attempt, retried, interrupted = row
            asked = known.get(task_id)
            if asked is None:
                continue
            allowed = asked.max_attempts + asked.retries + self.interrupted[task_id]
            if self.starts[task_id] > allowed:
                raise Violation(f"task {task_id}: {self.starts[task_id]} starts, {allowed} allowed")
            end = (state, completion, code, size)
            if self._ends.get(task_id, end) != end:
                raise Violation(f"task {task_id}: its end changed from {self._ends[task_id]} to {end}")
            if completion is not None and task_id not in self._ends:
                self._ends[task_id] = end
                self._check_reason(task_id, state, code)
                starts = attempt - retried - interrupted
                if code == "WORKER_LOST" and starts < asked.max_attempts:
                    raise Violation(f"task {task_id}: given up after {starts} of {asked.max_attempts} starts")

    def _check_reason(self, task_id: str, state: str, code: str | None) -> None:
        if state == "cancelled" and task_id not in self.clients.cancelled:
            raise Violation(f"task {task_id}: cancelled by nobody")
        if code not in (None, "WORKER_LOST") or state == "succeeded":
            if not any(end[:2] == (state, code) for end in self.ended.get(task_id, ())):
                raise Violation(f"task {task_id}: {state} {code} was reported by no node")


_ALL = " UNION ALL ".join(
    f"SELECT '{meaning}' WHERE EXISTS ({query})" for meaning, query in invariants.NEVER.items()
)
_TASKS = (
    "SELECT id, state, completion, code, result_size, attempt, retried, interrupted FROM tasks ORDER BY no"
)


@contextmanager
def watched(world: World) -> Iterator[None]:
    """Let ``world`` see what services log."""
    logger = logging.getLogger("federation")
    before = logger.propagate, logger.level
    logger.addHandler(world)
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(world)
        logger.propagate, logger.level = before[0], before[1]
