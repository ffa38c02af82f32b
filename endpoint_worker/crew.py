"""The runners of a node as a group: how many, which one next, and replacements for those that end."""

from __future__ import annotations

import logging
import selectors
import time

from . import strays
from .child import RunnerOptions
from .slot import Slot

log = logging.getLogger(__name__)

#: Seconds to wait before a runner that could not start is tried again: doubled each time up to the most.
FIRST_DELAY, MAX_DELAY = 0.5, 30.0
#: For so long (seconds) after a runner ended its orphans are looked for.
SWEEP = 0.5


class Crew:
    """Slots of one supervisor, whose thread calls all methods; ``selector`` hears their sockets."""

    def __init__(self, options: RunnerOptions, wanted: int, selector: selectors.BaseSelector):
        self.slots: list[Slot] = []
        self.wanted = wanted
        self.problem = ""
        self._options = options
        self._selector = selector
        self._listening: dict[Slot, int] = {}
        self._delay = 0.0
        self._hire_at = 0.0
        self._sweep_until = 0.0
        #: this process has no children but runners: what else appears below it got away from one
        self.sweeps = False

    @property
    def busy(self) -> int:
        """How many slots run a bundle."""
        return sum(slot.run is not None for slot in tuple(self.slots))

    @property
    def starting(self) -> bool:
        """True while a runner has not said hello, or is still to be started."""
        return len(self.slots) < self.wanted or any(slot.state == "starting" for slot in self.slots)

    @property
    def restless(self) -> bool:
        """True while some slot should be looked at in a moment."""
        return any(slot.restless or slot.child.killed for slot in self.slots)

    def youngest(self) -> float | None:
        """When the bundle that was begun last was begun (monotonic clock)."""
        return max((slot.run.began for slot in self.slots if slot.run is not None), default=None)

    def choose(self, function: str) -> Slot | None:
        """An idle slot for a bundle of this function: best one that has it loaded."""
        best = None
        for slot in self.slots:
            if slot.state != "idle" or slot.retiring or slot.child.killed:
                continue
            if slot.function == function:
                return slot
            if slot.left:
                # what the last call left behind must not meet another function
                slot.kill()
            elif best is None:
                best = slot
        return best

    def listen(self, slot: Slot) -> None:
        """Hear what a slot's socket has to say, as long as it says anything."""
        wanted = 0
        if not slot.eof:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if slot.wants_to_write else 0)
        had = self._listening.get(slot, 0)
        if wanted == had:
            return
        if not wanted:
            self._selector.unregister(slot.sock)
            del self._listening[slot]
            return
        if had:
            self._selector.modify(slot.sock, wanted, slot)
        else:
            self._selector.register(slot.sock, wanted, slot)
        self._listening[slot] = wanted

    def check_wear(self, slot: Slot) -> None:
        """After a bundle: replace a runner that has served long enough, or that is not wanted any more."""
        if slot.retiring or slot.worn():
            slot.kill()

    def resize(self, difference: int) -> None:
        """Want more or fewer slots (at least one)."""
        self.wanted = max(1, self.wanted + difference)
        spare = sum(not slot.retiring for slot in self.slots) - self.wanted
        for slot in sorted(self.slots, key=lambda slot: slot.run is not None):
            if spare > 0 and not slot.retiring:
                spare -= 1
                slot.retiring = True
                if slot.run is None:
                    slot.kill()

    def renew(self) -> None:
        """Replace every runner, each when it is idle."""
        for slot in self.slots:
            slot.retiring = True
            if slot.run is None:
                slot.kill()

    def bury(self, slot: Slot, how: str) -> None:
        """Forget a slot whose runner has ended."""
        slot.eof = True
        self.listen(slot)
        self.slots.remove(slot)
        slot.child.bury()
        self._sweep_until = time.monotonic() + SWEEP
        if slot.greeted:
            self._delay = 0.0
        elif not slot.retiring:
            if how != self.problem:
                log.error("slot %d: %s", slot.number, how)
            self.problem = how
            self._delay = min(MAX_DELAY, max(FIRST_DELAY, 2 * self._delay))
            self._hire_at = time.monotonic() + self._delay

    def replace(self, now: float, *, hire: bool) -> None:
        """Start runners for slots that have none."""
        if self.problem and any(slot.greeted for slot in self.slots):
            self.problem = ""
        if self.sweeps and now < self._sweep_until:
            strays.kill_strays({slot.child.pid for slot in self.slots})
        taken = {slot.number for slot in self.slots if not slot.retiring}
        numbers = (number for number in range(self.wanted) if number not in taken)
        while hire and now >= self._hire_at and sum(not s.retiring for s in self.slots) < self.wanted:
            try:
                slot = Slot(next(numbers), self._options)
            except OSError as error:
                self.problem = f"no runner can be started: {error}"
                log.error("%s", self.problem)
                self._delay = min(MAX_DELAY, max(FIRST_DELAY, 2 * self._delay))
                self._hire_at = now + self._delay
                return
            self.slots.append(slot)
            self.listen(slot)

    def dismiss(self) -> None:
        """Kill all runners and wait a moment until they are gone."""
        for slot in self.slots:
            slot.retiring = True
            slot.kill()
        deadline = time.monotonic() + 2.0
        while self.slots and time.monotonic() < deadline:
            for slot in list(self.slots):
                if slot.ended() is not None:
                    self.bury(slot, "stopped")
            time.sleep(0.005)
