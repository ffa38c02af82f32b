"""Runners without a slot: idle, warm, and limited in number and time.

A slot that changes to another user, environment or function parks its runner and continues with a parked one
of the kind that it needs now, if there is one.
"""

from __future__ import annotations

from ..runners.process import RunnerOptions
from ..runners.slot import Slot

#: A parked runner ends after this long (seconds), or when threads that calls have left in it use more than
#: this much processor time meanwhile (seconds).
PARKED_SECONDS, PARKED_CPU = 300.0, 1.0
#: Interval of looking for runners to end (seconds).
_INTERVAL = 1.0


class Parking:
    """The parked ones among ``slots``, the runners of a node; at most ``most``.

    They stay in ``slots``, so whoever watches or ends the runners of the node includes them.
    """

    def __init__(self, slots: list[Slot], most: int):
        self._slots = slots
        self._most = most
        self._used: dict[Slot, float] = {}
        self._next_look = 0.0

    @property
    def waiting(self) -> list[Slot]:
        """Parked runners that can take a bundle, the longest parked first."""
        found = [slot for slot in self._slots if slot.parked is not None and _ready(slot)]
        return sorted(found, key=lambda slot: slot.parked or 0.0)

    def keeps(self, slot: Slot) -> bool:
        """Return whether an idle runner may be parked."""
        # processes left by a call may use anything; memory of an accelerator is needed by the next runner
        return (
            self._most > 0
            and slot.options.cores == 1
            and not slot.options.layout.accelerators
            and "child processes" not in slot.leftovers
            and _ready(slot)
        )

    def add(self, slot: Slot, now: float) -> None:
        """Take a runner out of its slot; it ends if it cannot be kept, otherwise the oldest one may end."""
        kept = self.keeps(slot)
        slot.parked = now
        if not kept:
            slot.end()
            return
        if slot.leftovers:
            self._used[slot] = slot.process.cpu_seconds()
        waiting = self.waiting
        for oldest in waiting[: max(0, len(waiting) - self._most)]:
            oldest.end()

    def find(self, options: RunnerOptions, function: str | None) -> list[Slot]:
        """Return runners for a function of this kind, the best one first.

        Those that ran it last come first; others with leftovers are excluded. None: for any function.
        """
        found = [slot for slot in self.waiting if serves(slot, options)]
        last = [slot for slot in found if function is not None and slot.function == function]
        own = [slot for slot in found if slot not in last and not slot.leftovers]
        return last + sorted(own, key=unused)

    def take(self, slot: Slot, number: int) -> None:
        """Put a parked runner into the slot ``number``."""
        slot.parked, slot.number = None, number
        self._used.pop(slot, None)

    def expire(self, now: float) -> None:
        """End runners that have been parked for long or whose leftovers keep a processor busy."""
        if now < self._next_look:
            return
        self._next_look = now + _INTERVAL
        for slot in self.waiting:
            used = slot.process.cpu_seconds() - self._used[slot] if slot in self._used else 0.0
            if now - (slot.parked or 0.0) > PARKED_SECONDS or used > PARKED_CPU:
                slot.end()
        self._used = {slot: used for slot, used in self._used.items() if slot in self._slots}

    def clear(self) -> None:
        """End all parked runners."""
        for slot in self.waiting:
            slot.end()


def unused(slot: Slot) -> bool:
    """Return whether a runner has not run any bundle yet."""
    return slot.function is None


def serves(slot: Slot, options: RunnerOptions) -> bool:
    """Return whether a runner may run bundles for ``options``: never after a bundle of another user."""
    return slot.key == options.key or (unused(slot) and slot.options.fresh == options.fresh)


def _ready(slot: Slot) -> bool:
    return slot.state == "idle" and not slot.retiring and not slot.process.killed and not slot.eof
