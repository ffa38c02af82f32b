"""The runners of a node as a group: their number, the choice of the next one, and replacements."""

# One concept: which runner is in which slot.

from __future__ import annotations

import errno
import logging
import selectors
import socket
import time
from collections import deque
from collections.abc import Collection, Hashable, Iterable

from ..runners import call_directories, process_tree
from ..runners.execution import Execution
from ..runners.process import RunnerOptions
from ..runners.slot import Slot
from .parking import Parking, serves, unused

log = logging.getLogger(__name__)

#: Delay before another attempt to start a runner (seconds): doubled each time up to the maximum.
FIRST_DELAY, MAX_DELAY = 0.5, 30.0
#: A runner that is not ready after this long (seconds) is killed.
START_TIMEOUT = 90.0
#: An idle runner with leftovers of its last call makes room for another one after this long (seconds).
LEFTOVER_SECONDS = 1.0
#: Orphans are looked for during this time (seconds) after the end of a runner.
CLEANUP_SECONDS = 0.5
#: Errors of starting a runner that say that its interpreter is missing or unusable.
_PERMANENT = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC)


class RunnerPool:
    """Slots of one supervisor, whose thread calls all methods; ``selector`` watches their sockets."""

    def __init__(
        self,
        options: RunnerOptions,
        size: int,
        selector: selectors.BaseSelector,
        *,
        adopts_orphans: bool = False,
    ):
        self.slots: list[Slot] = []
        #: number of slots that there should be
        self.size = size
        self.problem = ""
        #: kind of runner (``fresh``) that cannot start in its environment, and why; the owner resets it
        self.unstartable: tuple[Hashable, str] | None = None
        self._options = options
        self.parking = Parking(self.slots, options.warm_runners)
        #: a slot has become free of its runner
        self.vacated = False
        self._selector = selector
        self._registered: dict[Slot, tuple[socket.socket, int]] = {}
        #: options of the next runners, in place of runners that were killed for them
        self._requested: deque[RunnerOptions] = deque()
        #: numbers of slots that a multi-slot runner occupies besides its own, also before it is started
        self._borrowed: set[int] = set()
        #: multi-slot runners to be started: number, options, and the numbers of the other slots
        self._wide: dict[int, tuple[RunnerOptions, list[int]]] = {}
        self._delay = 0.0
        self._retry_at = 0.0
        self._cleanup_until = 0.0
        #: this process adopts orphans: its children that are neither runners nor exempt are leftovers
        self._adopts_orphans = adopts_orphans

    @property
    def busy(self) -> int:
        """Number of slots that run a bundle, or belong to one that does."""
        return sum(1 + len(slot.borrowed) for slot in tuple(self.slots) if slot.execution is not None)

    @property
    def executions(self) -> list[Execution]:
        """The running bundles."""
        return [slot.execution for slot in self.slots if slot.execution is not None]

    @property
    def starting(self) -> bool:
        """True while a runner is not ready yet, or is still to be started to replace another one."""
        placed = [slot for slot in self.slots if slot.parked is None]
        coming = any(slot.state == "starting" or slot.process.killed for slot in placed)
        return coming or len(placed) < self.size

    @property
    def needs_check(self) -> bool:
        """True while some slot should be checked soon."""
        return any(slot.needs_check or slot.process.killed for slot in self.slots)

    @property
    def idle(self) -> bool:
        """True while some slot could take a bundle."""
        return any(self._free(slot) for slot in self.slots)

    def _free(self, slot: Slot) -> bool:
        if slot.state != "idle" or slot.retiring or slot.process.killed or slot.parked is not None:
            return False
        return slot.number not in self._borrowed

    def choose(self, function: str, options: RunnerOptions) -> Slot | None:
        """Return an idle slot of this kind, preferably one that ran the function last.

        A parked runner comes into a slot for that if it ran the function last or no other one will do.
        """
        best, spoiled = None, []
        for slot in self.slots:
            if not self._free(slot) or not serves(slot, options):
                continue
            if slot.function == function:
                return slot
            if slot.leftovers:
                spoiled.append(slot)
            elif best is None or (unused(best) and not unused(slot)):
                best = slot
        for warm in self.parking.find(options, function) if options.cores == 1 else ():
            if best is not None and warm.function != function:
                break
            if self._swap(warm, [*spoiled, *sorted(self.slots, key=lambda slot: slot.idle_since)]):
                best = warm
                break
        if best is None:
            # leftovers of the last call must not affect another function
            for slot in spoiled:
                self._renew(slot)
        return best

    def _swap(self, warm: Slot, leaving: Iterable[Slot]) -> bool:
        """Put a parked runner in the place of the first suitable idle one; return success."""
        for slot in leaving:
            if self._free(slot) and not slot.borrowed and self._same_hardware(warm, slot.number):
                number = slot.number
                self.parking.take(warm, number)
                self.parking.add(slot, time.monotonic())
                return True
        return False

    def _same_hardware(self, slot: Slot, number: int) -> bool:
        """Return whether a runner has the processors and accelerators of a slot."""
        layout = slot.options.layout
        return slot.number == number or (
            layout.affinity((slot.number,)) == layout.affinity((number,))
            and layout.environment((slot.number,)) == layout.environment((number,))
        )

    def _park(self, slot: Slot) -> None:
        """Take an idle runner out of its slot; one that cannot be kept occupies it until it has ended."""
        if self.parking.keeps(slot):
            self.vacated = True
            self.parking.add(slot, time.monotonic())
        else:
            slot.end()

    def _renew(self, slot: Slot) -> None:
        """Have another runner of the same kind in the place of an idle one, which may be kept for later."""
        if slot.options.cores == 1:
            self._requested.append(slot.options)
        self._park(slot)

    def convert(self, options: RunnerOptions, wanted: int, spared: Collection[Hashable]) -> None:
        """Ensure that ``wanted`` runners of these options are starting, in place of idle ones of other kinds.

        ``spared``: keys whose idle runners stay.
        """
        coming = sum(slot.state == "starting" and serves(slot, options) for slot in self.slots)
        coming += sum(order.fresh == options.fresh for order in self._requested)
        # the longest idle runner first: a recently used one is likely to be needed again
        for slot in sorted(self.slots, key=lambda slot: slot.idle_since):
            if coming >= wanted:
                return
            if self._free(slot) and not serves(slot, options) and slot.key not in spared:
                self._requested.append(options)
                self._park(slot)
                coming += 1

    def widen(self, options: RunnerOptions) -> bool:
        """Start a runner on several slots if enough of them are free; return whether it is starting.

        Its own slot's runner ends; the runners of the other slots stay loaded but idle.
        """
        if any(slot.state == "starting" and serves(slot, options) for slot in self.slots):
            return True
        if any(order.fresh == options.fresh for order, _ in self._wide.values()):
            return True
        free = sorted((slot for slot in self.slots if self._free(slot)), key=lambda slot: slot.number)
        for slot in free:
            if slot.borrowed:
                slot.end()
        free = [slot for slot in free if not slot.borrowed][: options.cores]
        if len(free) < options.cores:
            return False
        first, *others = free
        borrowed = [slot.number for slot in others]
        self._wide[first.number] = options, borrowed
        self._borrowed.update(borrowed)
        self._park(first)
        return True

    def register(self, slot: Slot) -> None:
        """Watch the socket of a slot for what it needs now."""
        wanted = 0
        if not slot.eof:
            wanted = 0 if slot.backlogged else selectors.EVENT_READ
            wanted |= selectors.EVENT_WRITE if slot.has_unsent else 0
        sock, had = self._registered.get(slot, (slot.sock, 0))
        if wanted == had and sock is slot.sock:
            return
        if had and (not wanted or sock is not slot.sock):
            # by its object: a socket that was closed meanwhile has no descriptor any more
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
        """After a bundle: replace a runner that has served long enough or is no longer needed."""
        if slot.retiring or slot.due_for_recycling():
            slot.end()

    def resize(self, difference: int) -> None:
        """Change the number of slots (at least one)."""
        self.size = max(1, self.size + difference)
        placed = self._placed()
        spare = len(placed) - self.size
        for slot in sorted(placed, key=lambda slot: slot.execution is not None):
            if spare > 0 and not slot.retiring:
                spare -= 1
                slot.retiring = True
                if slot.execution is None:
                    slot.end()

    def _placed(self) -> list[Slot]:
        """Runners that are in a slot and stay there."""
        return [slot for slot in self.slots if not slot.retiring and slot.parked is None]

    def replace_all(self) -> None:
        """Replace every runner once it is idle."""
        self.parking.clear()
        for slot in self.slots:
            if slot.parked is not None:
                continue
            if not slot.retiring and slot.key != self._options.key and slot.options.cores == 1:
                self._requested.append(slot.options)
            slot.retiring = True
            if slot.execution is None:
                slot.end()

    def remove(self, slot: Slot, how: str) -> None:
        """Remove a slot whose runner has ended."""
        slot.eof = True
        self.register(slot)
        self.slots.remove(slot)
        self._borrowed.difference_update(slot.borrowed)
        slot.process.close(slot.last_call)
        self._cleanup_until = time.monotonic() + CLEANUP_SECONDS
        if slot.was_ready:
            self._delay = 0.0
            staying = len(self._placed()) + len(self._requested)
            alone = slot.options.cores == 1 and slot.number not in self._wide
            if alone and slot.parked is None and staying < self.size:
                # the next bundle is likely to need the same kind
                self._requested.append(slot.options)
        elif not slot.retiring and not slot.environment_broken:
            if how != self.problem:
                log.error("slot %d: %s", slot.number, how)
            self.problem = how
            self._delay = min(MAX_DELAY, max(FIRST_DELAY, 2 * self._delay))
            self._retry_at = time.monotonic() + self._delay

    def replace(self, now: float, *, start: bool) -> None:
        """Fill slots that have no runner: with a parked one that fits, else with a new one."""
        self.vacated = False
        self.parking.expire(now)
        if self.problem and any(slot.was_ready for slot in self.slots):
            self.problem = ""
        cleanup = now < self._cleanup_until or process_tree.pending()
        if self._adopts_orphans and cleanup and self._options.launcher.shares_processes:
            process_tree.kill_leftovers({slot.process.outer_pid for slot in self.slots})
        self._end_overdue(now)
        taken = {slot.number for slot in self._placed()}
        numbers = (number for number in range(self.size) if number not in taken)
        while start and len(self._placed()) < self.size:
            number = next(numbers)
            options, borrowed = self._next_options(number)
            if not borrowed and self._unpark(number, options):
                continue
            if now < self._retry_at:
                return
            try:
                slot = Slot(number, options, borrowed)
            except Exception as error:
                # OSError (no process, descriptor or memory), and whatever settings make of an interpreter
                self._cannot_start(number, options, error, now)
                return
            if self._wide.pop(number, None) is None and self._requested:
                self._requested.popleft()
            self.slots.append(slot)
            self.register(slot)

    def _end_overdue(self, now: float) -> None:
        """Kill runners that do not become ready, and replace idle ones with leftovers."""
        for slot in self.slots:
            if slot.state == "starting" and now - slot.born > START_TIMEOUT:
                slot.timed_out = True
                slot.kill()
            elif slot.leftovers and slot.state == "idle" and now - slot.idle_since > LEFTOVER_SECONDS:
                if slot.parked is None and not slot.process.killed:
                    self._renew(slot)

    def _unpark(self, number: int, options: RunnerOptions) -> bool:
        """Put a parked runner without leftovers into a slot that has none; return success."""
        for warm in self.parking.find(options, None):
            if self._same_hardware(warm, number):
                self.parking.take(warm, number)
                if self._requested:
                    self._requested.popleft()
                return True
        return False

    def _cannot_start(self, number: int, options: RunnerOptions, error: Exception, now: float) -> None:
        """Note the problem and try again later, with another kind of runner if there is one."""
        self.problem = f"cannot start a runner: {error}"
        log.error("%s", self.problem, exc_info=None if isinstance(error, OSError) else error)
        self._delay = min(MAX_DELAY, max(FIRST_DELAY, 2 * self._delay))
        self._retry_at = now + self._delay
        wide = self._wide.pop(number, None)
        if wide is not None:
            self._borrowed.difference_update(wide[1])
        elif self._requested:
            # its bundles request it again
            self._requested.popleft()
        if options.for_environment and getattr(error, "errno", None) in _PERMANENT:
            self.unstartable = options.fresh, self.problem

    def _next_options(self, number: int) -> tuple[RunnerOptions, list[int]]:
        """Options of the next runner of a slot, and the other slots that it occupies."""
        return self._wide.get(number) or (self._requested[0] if self._requested else self._options, [])

    def shut_down(self) -> None:
        """Kill all runners and wait a moment for their end."""
        for slot in self.slots:
            slot.retiring = True
            slot.end()
        deadline = time.monotonic() + 2.0
        while self.slots and time.monotonic() < deadline:
            for slot in list(self.slots):
                if slot.ended() is not None:
                    self.remove(slot, "stopped")
            time.sleep(0.005)
        for slot in self.slots:
            slot.kill()
        call_directories.wait(2.0)
        if self._options.cgroups is not None:
            self._options.cgroups.close(patience=1.0)
