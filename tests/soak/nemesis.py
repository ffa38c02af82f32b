"""Kills processes of a federation, one after another, chosen by chance."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import psutil

from tests.support.embedded import Embedded, gone
from tests.support.wait import wait_until

#: Everything that a federation consists of; "up" is the one that keeps the others running.
VICTIMS = ("web", "collect", "sweep", "redis", "endpoint", "runner", "up")


class Nemesis(threading.Thread):
    """Kills a process every ``interval`` seconds, more or less, until ``stop``; each kind gets its turn."""

    def __init__(self, umbel: Embedded, interval: float, seed: int, failed: threading.Event):
        """``failed`` is set when something goes wrong, such as a part that does not come back."""
        super().__init__(name="nemesis")
        self._failed = failed
        self._umbel, self._interval = umbel, interval
        self._chance = random.Random(seed)
        self._over = threading.Event()
        self.kills: list[str] = []
        self.failure: BaseException | None = None

    def stop(self) -> None:
        """Kill nobody else. Raises what went wrong."""
        self._over.set()
        self.join()
        if self.failure is not None:
            raise self.failure

    def run(self) -> None:
        """Kill until ``stop``."""
        began = time.monotonic()
        turns: list[str] = []
        try:
            while not self._over.wait(self._chance.uniform(0.5, 1.5) * self._interval):
                if not turns:
                    turns = self._chance.sample(VICTIMS, len(VICTIMS))
                victim = turns.pop()
                self._kill(victim)
                self.kills.append(victim)
                print(f"{time.monotonic() - began:6.1f} s: {victim} was killed and is back", flush=True)
        except BaseException as error:  # the test's thread raises it
            self.failure = error
            self._failed.set()

    def _kill(self, victim: str) -> None:
        if victim == "runner":
            self._kill_a_runner()
        elif victim == "up":
            self._kill_all()
        else:
            self._umbel.kill(victim, timeout=20)

    def _kill_a_runner(self) -> None:
        endpoint = psutil.Process(self._umbel.pids()["endpoint"])

        def runners() -> list[psutil.Process]:
            return [
                child
                for child in endpoint.children()
                if "endpoint_worker.child.main" in " ".join(child.cmdline())
            ]

        chosen = self._chance.choice(wait_until(runners, 20, what="a runner"))
        chosen.kill()
        wait_until(lambda: gone(chosen), 10, what="the runner's end")

    def _kill_all(self) -> None:
        """Kill the supervisor, which takes its children with it, and start it again."""
        service = self._umbel.service
        assert service is not None
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait()
        self._umbel.start()
