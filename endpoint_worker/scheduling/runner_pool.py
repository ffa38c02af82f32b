"""The runners of a node as a group: their number, the choice of the next one, and replacements."""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import time
from collections import deque
from collections.abc import Collection, Hashable

from ..runners import call_directories, process_tree
from ..runners.execution import Execution
from ..runners.process import RunnerOptions
from ..runners.slot import Slot

log = logging.getLogger(__name__)

#: Delay before another attempt to start a runner (seconds): doubled each time up to the maximum.
FIRST_DELAY, MAX_DELAY = 0.5, 30.0
#: A runner that is not ready after this long (seconds) is killed.
START_TIMEOUT = 90.0
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
        #: key of a kind of runner that cannot start in its environment, and why; the owner resets it
        self.unstartable: tuple[Hashable, str] | None = None
        self._options = options
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
        coming = any(slot.state == "starting" or slot.process.killed for slot in self.slots)
        return coming or len(self.slots) < self.size

    @property
    def needs_check(self) -> bool:
        """True while some slot should be checked soon."""
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
        """Return an idle slot of this kind, preferably one that has the function loaded."""
        best = None
        for slot in self.slots:
            if not self._free(slot) or slot.key != key:
                continue
            if slot.function == function:
                return slot
            if slot.leftovers:
                # leftovers of the last call must not affect another function
                slot.end()
            elif best is None:
                best = slot
        return best

    def convert(self, options: RunnerOptions, wanted: int, spared: Collection[Hashable]) -> None:
        """Ensure that ``wanted`` runners of these options are starting, in place of idle ones of other kinds.

        ``spared``: keys whose idle runners stay.
        """
        key = options.key
        coming = sum(slot.key == key and slot.state == "starting" for slot in self.slots)
        coming += sum(order.key == key for order in self._requested)
        # the longest idle runner first: a recently used one is likely to be needed again
        for slot in sorted(self.slots, key=lambda slot: slot.idle_since):
            if coming >= wanted:
                return
            if self._free(slot) and slot.key != key and slot.key not in spared:
                slot.replaced = True
                slot.end()
                self._requested.append(options)
                coming += 1

    def widen(self, options: RunnerOptions) -> bool:
        """Start a runner on several slots if enough of them are free; return whether it is starting.

        Its own slot's runner ends; the runners of the other slots stay loaded but idle.
        """
        if any(slot.key == options.key and slot.state == "starting" for slot in self.slots):
            return True
        if any(order.key == options.key for order, _ in self._wide.values()):
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
        first.end()
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
        spare = sum(not slot.retiring for slot in self.slots) - self.size
        for slot in sorted(self.slots, key=lambda slot: slot.execution is not None):
            if spare > 0 and not slot.retiring:
                spare -= 1
                slot.retiring = True
                if slot.execution is None:
                    slot.end()

    def replace_all(self) -> None:
        """Replace every runner once it is idle."""
        for slot in self.slots:
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
            staying = sum(not other.retiring for other in self.slots) + len(self._requested)
            alone = slot.options.cores == 1 and slot.number not in self._wide
            if alone and not slot.replaced and staying < self.size:
                # the next bundle is likely to need the same kind
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
        numbers = (number for number in range(self.size) if number not in taken)
        while start and now >= self._retry_at and sum(not s.retiring for s in self.slots) < self.size:
            number = next(numbers)
            options, borrowed = self._next_options(number)
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
            self.unstartable = options.key, self.problem

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
