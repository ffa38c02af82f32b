"""Kills, suspends, slows, cuts, attacks, fills disks, sets clocks: one after another, chosen by chance."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial

import psutil
import redis

from tests.soak.load import Load
from tests.soak.machine import Machine
from tests.support.chaos_proxy import ChaosProxy
from tests.support.embedded import Embedded, gone
from tests.support.wait import wait_until
from umbel.protocol import names

#: Everything that a federation consists of; "up" is the one that keeps the others running.
VICTIMS = ("web", "collect", "sweep", "redis", "endpoint", "runner", "up")
#: Parts that are also suspended, and how long that and other disturbances last at most, seconds: less than
#: after which a node is lost.
SUSPENDED, LONGEST = ("web", "collect", "sweep", "redis", "endpoint"), 12.0
#: Bytes per second of a slow link.
SLOW = 50_000
#: Most old reports that are kept to be sent again.
OLD_REPORTS = 50
#: Smallest and largest jump of a clock, seconds.
JUMP = (60.0, 1200.0)


class Nemesis(threading.Thread):
    """Strikes every ``interval`` seconds, more or less, until ``stop``; each kind gets its turn."""

    def __init__(
        self,
        umbel: Embedded,
        link: ChaosProxy,
        machine: Machine,
        interval: float,
        seed: int,
        load: Load,
        only: str = "",
    ):
        """``link``: between clients and API. ``machine``: under the federation.

        ``load`` logs each strike, and becomes hopeless when, say, a part does not come back. ``only``:
        strikes with this word in their name, and no others.
        """
        super().__init__(name="nemesis")
        self._load, self._only = load, only
        self._umbel, self._link, self._machine, self._interval = umbel, link, machine, interval
        self._chance = random.Random(seed)
        self._over = threading.Event()
        self._endpoint_id = umbel.client().get_endpoint("local")["id"]
        self._old_reports: list[bytes] = []
        self.kills: list[str] = []
        self.failure: BaseException | None = None
        self._others: dict[str, Callable[[], None]] = {
            **{f"suspend {part}": partial(self._suspend, part) for part in SUSPENDED},
            "slow link": self._slow,
            "silent link": self._silence,
            "cut link": self._cut,
            "garbage": self._send_garbage,
            "old reports": self._repeat_reports,
            **{
                f"full disk of the {_owner(part)}, {part} killed": partial(self._kill_on_full_disk, part)
                for part in SUSPENDED
                if machine.disks
            },
            **{f"full disk of the {part}": partial(self._fill, part) for part in machine.disks},
            **{f"wrong clock of the {part}": partial(self._set_clock, part) for part in machine.clocks},
        }

    def stop(self) -> None:
        """Strike no more. Raises what went wrong."""
        self._over.set()
        self.join()
        if self.failure is not None:
            raise self.failure

    def run(self) -> None:
        """Strike until ``stop``."""
        began = time.monotonic()
        turns: list[str] = []
        try:
            while not self._pause(self._chance.uniform(0.5, 1.5) * self._interval):
                if not turns:
                    # as many other strikes as kills
                    others = self._chance.sample(sorted(self._others), len(VICTIMS))
                    turns = self._chance.sample([*VICTIMS, *others], 2 * len(VICTIMS))
                    if self._only:
                        chosen = [each for each in (*VICTIMS, *sorted(self._others)) if self._only in each]
                        turns = self._chance.sample(chosen, len(chosen))
                turn = turns.pop()
                self._load.log.write(event="strike", what=turn)
                self._others.get(turn, partial(self._kill, turn))()
                self._load.log.write(event="calm", what=turn)
                self.kills.append(turn)
                print(f"{time.monotonic() - began:6.1f} s: {turn}", flush=True)
        except BaseException as error:  # the test's thread raises it
            self.failure = error
            self._load.hopeless.set()

    def _pause(self, seconds: float) -> bool:
        """Wait, and meanwhile keep some reports that pass; return True when it is over."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._over.wait(0.1):
                return True
            for file in (self._umbel.home / "endpoints" / "local" / "spool").glob("*/*.report"):
                try:
                    self._old_reports.append(file.read_bytes())
                except OSError:
                    continue  # it has been sent meanwhile
            del self._old_reports[:-OLD_REPORTS]
        return self._over.is_set()

    def _for_a_while(self) -> None:
        self._over.wait(self._chance.uniform(1.0, LONGEST))

    def _suspend(self, part: str) -> None:
        process = psutil.Process(self._umbel.pid(part))
        process.suspend()
        try:
            self._for_a_while()
        finally:
            process.resume()

    def _slow(self) -> None:
        self._link.up.rate = self._link.down.rate = SLOW
        self._for_a_while()
        self._link.up.rate = self._link.down.rate = None

    def _silence(self) -> None:
        way = self._chance.choice((self._link.up, self._link.down))
        way.hole = True
        self._for_a_while()
        way.hole = False

    def _fill(self, part: str) -> None:
        disk = self._machine.disks[part]
        until = time.monotonic() + self._chance.uniform(1.0, LONGEST)
        try:
            while time.monotonic() < until:
                disk.fill()
                if self._over.wait(0.1):
                    return
        finally:
            disk.empty()

    def _kill_on_full_disk(self, victim: str) -> None:
        """Kill a part, which is started again on a full disk."""
        disk = self._machine.disks[_owner(victim)]
        old = self._umbel.pid(victim)
        until = time.monotonic() + self._chance.uniform(1.0, LONGEST)
        try:
            disk.fill()
            os.kill(old, signal.SIGKILL)
            while time.monotonic() < until:
                disk.fill()
                if self._over.wait(0.1):
                    break
        finally:
            disk.empty()
        wait_until(lambda: self._umbel.pids().get(victim, old) != old, 20, what=f"another {victim}")

    def _set_clock(self, part: str) -> None:
        """Set a clock forward or back, then the other way, then right."""
        sign = self._chance.choice((1, -1))
        try:
            for way in (sign, -sign):
                self._machine.set_clock(part, way * self._chance.uniform(*JUMP))
                self._over.wait(self._chance.uniform(2.0, LONGEST / 2))
        finally:
            self._machine.set_clock(part, 0.0)

    def _cut(self) -> None:
        self._link.cut()

    def _send_garbage(self) -> None:
        """Push what is no report and no message where the endpoint's own credentials allow it."""
        garbage = [self._chance.randbytes(self._chance.choice([0, 1, 64, 4096])) for _ in range(20)]
        with self._broker() as broker:
            broker.lpush(names.reports_key(self._endpoint_id), *garbage, b"UMB1\0\0\0\2{}" + bytes(64))
            broker.lpush(names.queue_key(self._endpoint_id), *garbage)

    def _repeat_reports(self) -> None:
        if self._old_reports:
            with self._broker() as broker:
                broker.lpush(names.reports_key(self._endpoint_id), *self._old_reports)

    def _broker(self) -> redis.Redis:
        url = (self._umbel.home / "redis" / "service.url").read_text().strip()
        return redis.Redis.from_url(url)

    def _kill(self, victim: str) -> None:
        if victim == "runner":
            self._kill_a_runner()
        elif victim == "up":
            self._kill_all()
        else:
            self._umbel.kill(victim, timeout=20)

    def _kill_a_runner(self) -> None:
        endpoint = psutil.Process(self._umbel.pid("endpoint"))

        def runners() -> list[psutil.Process]:
            return [child for child in endpoint.children() if _is_runner(child)]

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


def _owner(part: str) -> str:
    """Whose disk and clock a part has."""
    return "endpoint" if part == "endpoint" else "service"


def _is_runner(process: psutil.Process) -> bool:
    try:
        return "endpoint_worker.child.main" in " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False
