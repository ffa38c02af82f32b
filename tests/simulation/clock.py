"""Time and chance of a simulation: both depend on nothing but the seed."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest import mock

from umbel.protocol import names

#: When every simulation starts, seconds since 1970.
START = 1_800_000_000.0


class Clock:
    """The time of a simulation; it passes only by ``forward``, and a little with every look at it."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def forward(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.now += seconds


@contextmanager
def deterministic(clock: Clock, chance: random.Random) -> Iterator[None]:
    """Replace clocks and sources of randomness for the length of the block."""
    with ExitStack() as patches:
        patches.enter_context(mock.patch("time.time", clock))
        patches.enter_context(mock.patch("time.monotonic", clock))
        # not os.urandom itself: libraries use it once per process
        patches.enter_context(mock.patch.object(names, "os", SimpleNamespace(urandom=chance.randbytes)))
        new = lambda: uuid.UUID(int=chance.getrandbits(128), version=4)  # noqa: E731
        patches.enter_context(mock.patch("uuid.uuid4", new))
        yield
