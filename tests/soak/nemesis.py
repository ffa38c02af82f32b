"""Kills and suspends processes of a federation, and sends garbage, one after another, chosen by chance."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import psutil
import redis

from tests.support.embedded import Embedded, gone
from tests.support.wait import wait_until
from umbel.protocol import names

#: Everything that a federation consists of; "up" is the one that keeps the others running.
VICTIMS = ("web", "collect", "sweep", "redis", "endpoint", "runner", "up")
#: Parts that are also suspended for a while, up to so many seconds: less than after which a node is lost.
SUSPENDED, LONGEST = ("web", "collect", "sweep", "redis", "endpoint"), 12.0
#: What else happens, each once per round.
ATTACKS = (*(f"suspend {part}" for part in SUSPENDED), "garbage")


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
                    # kills more often than anything else
                    turns = self._chance.sample(
                        [*VICTIMS, *self._chance.sample(ATTACKS, 3)], len(VICTIMS) + 3
                    )
                turn = turns.pop()
                self._strike(turn)
                self.kills.append(turn)
                print(f"{time.monotonic() - began:6.1f} s: {turn}", flush=True)
        except BaseException as error:  # the test's thread raises it
            self.failure = error
            self._failed.set()

    def _strike(self, turn: str) -> None:
        if turn == "garbage":
            self._send_garbage()
        elif turn.startswith("suspend "):
            self._suspend(turn.split()[1])
        else:
            self._kill(turn)

    def _suspend(self, part: str) -> None:
        process = psutil.Process(self._umbel.pids()[part])
        process.suspend()
        try:
            self._over.wait(self._chance.uniform(1.0, LONGEST))
        finally:
            process.resume()

    def _send_garbage(self) -> None:
        """Push what is no report into the endpoint's own list of reports, as its credentials allow."""
        endpoint_id = self._umbel.client().get_endpoint("local")["id"]
        url = (self._umbel.home / "redis" / "service.url").read_text().strip()
        garbage = [self._chance.randbytes(self._chance.choice([0, 1, 64, 4096])) for _ in range(20)]
        with redis.Redis.from_url(url) as broker:
            broker.lpush(names.reports_key(endpoint_id), *garbage, b"UMB1\0\0\0\2{}" + bytes(64))

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
