"""The runners of a node as a group: how many, which one next, and replacements for those that end."""

from __future__ import annotations

import logging
import selectors
import socket
import time
from collections import deque
from collections.abc import Collection, Hashable

from ..runners import process_tree
from ..runners.execution import Execution
from ..runners.process import RunnerOptions
from ..runners.slot import Slot

log = logging.getLogger(__name__)

#: Seconds to wait before a runner that could not start is tried again: doubled each time up to the most.
FIRST_DELAY, MAX_DELAY = 0.5, 30.0
#: A runner that has not said hello after so long (seconds) is given up.
START_TIMEOUT = 90.0
#: For so long (seconds) after a runner ended its orphans are looked for.
CLEANUP_SECONDS = 0.5


class RunnerPool:
    """Slots of one supervisor, whose thread calls all methods; ``selector`` hears their sockets."""

    def __init__(
        self,
        options: RunnerOptions,
        wanted: int,
        selector: selectors.BaseSelector,
        *,
        adopts_orphans: bool = False,
    ):
        self.slots: list[Slot] = []
        self.wanted = wanted
        self.problem = ""
        self._options = options
        self._selector = selector
        self._registered: dict[Slot, tuple[socket.socket, int]] = {}
        #: what the next runners shall be for, in place of those that were dismissed for them
        self._requested: deque[RunnerOptions] = deque()
        #: numbers of slots that a wide runner stands on beside its own, also while it is still to be started
        self._borrowed: set[int] = set()
        #: wide runners to be started: number, options, and the numbers of the other slots
        self._wide: dict[int, tuple[RunnerOptions, list[int]]] = {}
        self._delay = 0.0
        self._retry_at = 0.0
        self._cleanup_until = 0.0
        #: this process adopts orphans: a child that is no runner, nor a program of its own, got away from one
        self._adopts_orphans = adopts_orphans

    @property
    def busy(self) -> int:
        """How many slots run a bundle, or belong to one that does."""
        return sum(1 + len(slot.borrowed) for slot in tuple(self.slots) if slot.execution is not None)

    @property
    def executions(self) -> list[Execution]:
        """The bundles that run."""
        return [slot.execution for slot in self.slots if slot.execution is not None]

    @property
    def starting(self) -> bool:
        """True while a runner has not said hello, or is still to be started in place of one that goes."""
        coming = any(slot.state == "starting" or slot.process.killed for slot in self.slots)
        return coming or len(self.slots) < self.wanted

    @property
    def needs_check(self) -> bool:
        """True while some slot should be looked at in a moment."""
        return any(slot.needs_check or slot.process.killed for slot in self.slots)

    @property
    def idle(self) -> bool:
        """True while some slot could take a bundle."""
        return any(self._free(slot) for slot in self.slots)

    def _free(self, slot: Slot) -> bool:
        if slot.state != "idle" or slot.retiring or slot.process.killed:
            return False
        return slot.number not in self._borrowed

    def choose(self, function: str, key: Hashable = ()) -> Slot | None:
        """An idle slot of this key for a bundle of this function: best one that has it loaded."""
        best = None
        for slot in self.slots:
            if not self._free(slot) or slot.key != key:
                continue
            if slot.function == function:
                return slot
            if slot.left:
                # what the last call left behind must not meet another function
                slot.kill()
            elif best is None:
                best = slot
        return best

    def convert(self, options: RunnerOptions, wanted: int, spared: Collection[Hashable]) -> None:
        """See that ``wanted`` runners of these options are on their way, in place of idle ones of other keys.

        ``spared``: keys whose idle runners stay.
        """
        key = options.key
        coming = sum(slot.key == key and slot.state == "starting" for slot in self.slots)
        coming += sum(order.key == key for order in self._requested)
        # the one that had nothing to do for longest: what was used a moment ago is likely to be wanted again
        for slot in sorted(self.slots, key=lambda slot: slot.idle_since):
            if coming >= wanted:
                return
            if self._free(slot) and slot.key != key and slot.key not in spared:
                slot.replaced = True
                slot.kill()
                self._requested.append(options)
                coming += 1

    def widen(self, options: RunnerOptions) -> bool:
        """See that a runner on several slots is on its way as soon as so many are free; tell if it is.

        Its own slot's runner ends, those of the others stay warm and do nothing.
        """
        if any(slot.key == options.key and slot.state == "starting" for slot in self.slots):
            return True
        if any(order.key == options.key for order, _ in self._wide.values()):
            return True
        free = sorted((slot for slot in self.slots if self._free(slot)), key=lambda slot: slot.number)
        for slot in free:
            if slot.borrowed:
                slot.kill()
        free = [slot for slot in free if not slot.borrowed][: options.cores]
        if len(free) < options.cores:
            return False
        first, *others = free
        borrowed = [slot.number for slot in others]
        self._wide[first.number] = options, borrowed
        self._borrowed.update(borrowed)
        first.kill()
        return True

    def register(self, slot: Slot) -> None:
        """Hear what a slot's socket has to say, as long as it says anything."""
        wanted = 0
        if not slot.eof:
            wanted = 0 if slot.backlogged else selectors.EVENT_READ
            wanted |= selectors.EVENT_WRITE if slot.has_unsent else 0
        sock, had = self._registered.get(slot, (slot.sock, 0))
        if wanted == had and sock is slot.sock:
            return
        if had and (not wanted or sock is not slot.sock):
            # by its object: a socket that was closed meanwhile has no number any more
            self._selector.unregister(sock)
            del self._registered[slot]
            had = 0
        if not wanted:
            return
        if had:
            self._selector.modify(sock, wanted, slot)
        else:
            self._selector.register(slot.sock, wanted, slot)
        self._registered[slot] = (slot.sock, wanted)

    def recycle_if_due(self, slot: Slot) -> None:
        """After a bundle: replace a runner that has served long enough, or that is not wanted any more."""
        if slot.retiring or slot.due_for_recycling():
            slot.kill()

    def resize(self, difference: int) -> None:
        """Want more or fewer slots (at least one)."""
        self.wanted = max(1, self.wanted + difference)
        spare = sum(not slot.retiring for slot in self.slots) - self.wanted
        for slot in sorted(self.slots, key=lambda slot: slot.execution is not None):
            if spare > 0 and not slot.retiring:
                spare -= 1
                slot.retiring = True
                if slot.execution is None:
                    slot.kill()

    def replace_all(self) -> None:
        """Replace every runner, each when it is idle."""
        for slot in self.slots:
            if not slot.retiring and slot.key != self._options.key and slot.options.cores == 1:
                self._requested.append(slot.options)
            slot.retiring = True
            if slot.execution is None:
                slot.kill()

    def remove(self, slot: Slot, how: str) -> None:
        """Forget a slot whose runner has ended."""
        slot.eof = True
        self.register(slot)
        self.slots.remove(slot)
        self._borrowed.difference_update(slot.borrowed)
        slot.process.close()
        self._cleanup_until = time.monotonic() + CLEANUP_SECONDS
        if slot.was_ready:
            self._delay = 0.0
            staying = sum(not other.retiring for other in self.slots) + len(self._requested)
            alone = slot.options.cores == 1 and slot.number not in self._wide
            if alone and not slot.replaced and staying < self.wanted:
                # the next one is likely to be wanted for the same
                self._requested.append(slot.options)
        elif not slot.retiring and not slot.environment_broken:
            if how != self.problem:
                log.error("slot %d: %s", slot.number, how)
            self.problem = how
            self._delay = min(MAX_DELAY, max(FIRST_DELAY, 2 * self._delay))
            self._retry_at = time.monotonic() + self._delay

    def replace(self, now: float, *, start: bool) -> None:
        """Start runners for slots that have none."""
        if self.problem and any(slot.was_ready for slot in self.slots):
            self.problem = ""
        cleanup = now < self._cleanup_until or process_tree.pending()
        if self._adopts_orphans and cleanup and self._options.launcher.shares_processes:
            process_tree.kill_leftovers({slot.process.outer_pid for slot in self.slots})
        for slot in self.slots:
            if slot.state == "starting" and now - slot.born > START_TIMEOUT:
                slot.timed_out = True
                slot.kill()
        taken = {slot.number for slot in self.slots if not slot.retiring}
        numbers = (number for number in range(self.wanted) if number not in taken)
        while start and now >= self._retry_at and sum(not s.retiring for s in self.slots) < self.wanted:
            number = next(numbers)
            options, borrowed = self._next_options(number)
            try:
                slot = Slot(number, options, borrowed)
            except OSError as error:
                self.problem = f"no runner can be started: {error}"
                log.error("%s", self.problem)
                self._delay = min(MAX_DELAY, max(FIRST_DELAY, 2 * self._delay))
                self._retry_at = now + self._delay
                return
            if self._wide.pop(number, None) is None and self._requested:
                self._requested.popleft()
            self.slots.append(slot)
            self.register(slot)

    def _next_options(self, number: int) -> tuple[RunnerOptions, list[int]]:
        """What the next runner of a slot shall be, and the other slots that it stands on."""
        return self._wide.get(number) or (self._requested[0] if self._requested else self._options, [])

    def shut_down(self) -> None:
        """Kill all runners and wait a moment until they are gone."""
        for slot in self.slots:
            slot.retiring = True
            slot.kill()
        deadline = time.monotonic() + 2.0
        while self.slots and time.monotonic() < deadline:
            for slot in list(self.slots):
                if slot.ended() is not None:
                    self.remove(slot, "stopped")
            time.sleep(0.005)
        if self._options.cgroups is not None:
            self._options.cgroups.close(patience=1.0)
