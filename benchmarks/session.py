"""One session of one system: start it, warm it up, run workloads, check all results, stop it.

Runs with the interpreter of the system's environment: ``python -m benchmarks.session --peer celery ...``.
Prints one JSON record per run; output of the system goes to standard error.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from . import old_tasks, processes
from .clock import Clock, bare_nap, settle
from .functions import EACH
from .peers import adapter
from .peers.base import Peer
from .redis_server import RedisServer
from .works import (
    AHEAD,
    ARRAY_BYTES,
    ARRAY_RUNS,
    SCALE,
    SHORT_NAP,
    SLOTS,
    WORKS,
    are_equal,
    arguments,
    expected,
    ideal_seconds,
    sizes,
)

#: No-ops before the first measurement; time limits of the start (with the no-ops) and the stop, seconds.
WARM_UP = 200
START_LIMIT, STOP_LIMIT = 120, 40
#: W7: each size is repeated until about this many calls were run, but at most this often.
GROWTH_CALLS, GROWTH_RUNS = 10_000, 10


class RunTimeout(BaseException):
    """A run has reached its time limit. Not an Exception, so that no system catches it."""


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raise RunTimeout in the block after ``seconds``."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise RunTimeout(f"not finished within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that is >= a ``share`` (0..1) of all values."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -int(-share * len(ranked) // 1) - 1))]


class Session:
    """``output``: stream for the records; ``folder``: working directory of all processes."""

    def __init__(self, options: argparse.Namespace, output: TextIO):
        self.options, self.output = options, output
        self.mark = os.environ[processes.MARK]
        self.folder: Path = options.folder
        self.allowance: float = options.settle
        self.started: dict[int, int] = {}
        self.redis: RedisServer | None = None

    def emit(self, work: str, **fields: Any) -> None:
        """Write a record."""
        record = {"peer": self.options.peer, "work": work, "round": self.options.round, **fields}
        print(json.dumps(record), file=self.output, flush=True)

    def record_processes(self) -> None:
        """List all processes of the session, also in a file, so that they can always be ended."""
        found = processes.of_session(self.mark)
        self.started.update({pid: process.start for pid, process in found.items() if pid != os.getpid()})
        lines = "".join(f"{pid} {start}\n" for pid, start in self.started.items())
        (self.folder / "pids").write_text(lines)

    def run(self) -> bool:
        """Run the session; return whether it succeeded."""
        try:
            self.peer = self._start()
            for work in self.options.works.split(","):
                self._work(work)
            return True
        # an error of a peer is a result, not a crash of the benchmark
        except (Exception, RunTimeout) as error:
            self.emit("error", error=f"{type(error).__name__}: {error}"[:2000])
            return False
        finally:
            self.record_processes()
            self._stop()

    def _start(self) -> Peer:
        cls = self._adapter()
        if cls.needs_redis:
            self.redis = RedisServer(self.folder)
        peer = cls(self.folder, self.redis.port if self.redis else 0)
        began = time.perf_counter()
        with limit(START_LIMIT):
            peer.start()
            self.record_processes()
            first = peer.run("same", [0])
            seconds = time.perf_counter() - began
            if first != [0] or peer.run("same", list(range(WARM_UP))) != list(range(WARM_UP)):
                raise RuntimeError("wrong results while warming up")
            if self.options.old_tasks:
                peer.stop()
                old_tasks.add(self.folder / "home" / "ledger.sqlite", self.options.old_tasks)
                peer.start()
                peer.run("same", list(range(WARM_UP)))
        self.record_processes()
        self.emit("start", seconds=round(seconds, 3), versions=versions(cls.packages))
        return peer

    def _adapter(self) -> type[Peer]:
        if self.options.works in SCALE:
            # imported here because the environments of peers do not have the service
            from .scale.service import ScaleService

            return ScaleService
        return adapter(self.options.peer)

    def _stop(self) -> None:
        try:
            with limit(STOP_LIMIT):
                if hasattr(self, "peer"):
                    self.peer.stop()
        except (Exception, RunTimeout) as error:  # its processes are ended below
            print(f"{self.options.peer} did not stop: {type(error).__name__}: {error}", file=sys.stderr)
        if self.redis is not None:
            self.redis.stop()
        left = processes.end(self.started)
        if left:
            print(f"still alive: {left}", file=sys.stderr)

    def _work(self, name: str) -> None:
        for n in sizes(WORKS[name], self.options.quick):
            self.allowance = settle(self.mark, self.allowance)
            with limit(max(self.options.limit, WORKS[name].limit)):
                if name in SCALE:
                    self._scale(name, n)
                elif name == "W2":
                    self._round_trips(n)
                elif name == "W10":
                    self._generator(n)
                else:
                    self._calls(name, n)
            self.record_processes()

    def _scale(self, name: str, n: int) -> None:
        from .scale import RUNS

        importlib.import_module(RUNS[name]).run(self, n)

    def _round_trips(self, n: int) -> None:
        each = []
        with Clock(self.mark, self.peer.roles) as clock:
            for number in range(n):
                began = time.perf_counter()
                result = self.peer.run("same", [number])
                each.append((time.perf_counter() - began) * 1000)
                if result != [number]:
                    raise RuntimeError(f"round trip {number} returned {result!r}")
        self.emit(
            "W2", p50_ms=round(statistics.median(each), 3), p95_ms=round(percentile(each, 0.95), 3),
            p99_ms=round(percentile(each, 0.99), 3), max_ms=round(max(each), 3), **clock.record(n),
        )  # fmt: skip

    def _generator(self, n: int) -> None:
        processes.reset_peaks(processes.of_session(self.mark))
        numbers = (number for number in range(n))
        count = 0
        with Clock(self.mark, self.peer.roles) as clock:
            for count, result in enumerate(self.peer.run_ahead("same", numbers, AHEAD), 1):
                if result != count - 1:
                    raise RuntimeError(f"call {count - 1} returned {result!r}")
        if count != n:
            raise RuntimeError(f"{count} results of {n} calls")
        self.emit("W10", **clock.record(n), peak_mb=self.peaks())

    def _calls(self, name: str, n: int) -> None:
        for _ in range(_repeats(name, n)):
            pids = processes.of_session(self.mark)
            if name == "W5" or name in ARRAY_BYTES:
                processes.reset_peaks(pids)
            items = arguments(name, n)
            wanted = expected(name, items)
            if name in EACH:
                self.peer.run_each(EACH[name](items[:WARM_UP]))
            with Clock(self.mark, self.peer.roles) as clock:
                if name in EACH:
                    results = self.peer.run_each(EACH[name](items))
                else:
                    results = self.peer.run(WORKS[name].function, items)
            if not are_equal(name, results, wanted):
                raise RuntimeError(f"{name}: wrong results ({len(results)} of {n})")
            self.emit(name, **clock.record(n), **self._extra(name, items, clock.seconds))
            # not in memory together with those of the next run
            del items, wanted, results

    def _extra(self, name: str, items: Sequence[Any], seconds: float) -> dict[str, Any]:
        if name == "W3":
            return {"mb_per_s": round(sum(map(len, items)) / 1e6 / seconds, 2)}
        if name == "W4":
            nap = bare_nap(SHORT_NAP)
            ideal = len(items) / SLOTS / seconds
            return {
                "efficiency": round(ideal * SHORT_NAP, 4),
                "nap_ms": round(nap * 1000, 4),
                "of_bare": round(ideal * nap, 4),
            }
        if name in ARRAY_BYTES:
            both_ways = 2 * ARRAY_BYTES[name] * len(items) / 1e6
            return {"mb_per_s": round(both_ways / seconds, 2), "peak_mb": self.peaks()}
        if name == "W5":
            return {"peak_mb": self.peaks()}
        if name == "W6":
            return {"stretch": round(seconds / ideal_seconds(items), 4)}
        if name.startswith("W7"):
            return {"us_per_task": round(seconds / len(items) * 1e6, 2), "old_tasks": self.options.old_tasks}
        return {}

    def peaks(self) -> list[list[Any]]:
        """Return role and peak memory (MiB) of each process since the last reset."""
        found = processes.of_session(self.mark)
        peaks = [(processes.role(pid, self.peer.roles), processes.peak_megabytes(pid)) for pid in found]
        return [[what, round(peak, 1)] for what, peak in sorted(peaks) if peak]


def _repeats(name: str, n: int) -> int:
    """Return how often a session runs ``n`` calls of a work."""
    if name in ARRAY_BYTES:
        return ARRAY_RUNS
    return max(1, min(GROWTH_RUNS, GROWTH_CALLS // n)) if name.startswith("W7") else 1


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of these distributions."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
            continue
    return found


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.session", description=__doc__)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--works", required=True, help="names of works, separated by commas")
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--round", type=int, default=1)
    parser.add_argument("--limit", type=int, default=300, help="time limit of one run in seconds")
    parser.add_argument(
        "--settle", type=float, default=60, help="longest total wait for an idle machine in seconds"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls")
    parser.add_argument("--old-tasks", type=int, default=0, help="finished tasks to add to the ledger first")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the session; exit without the exit handlers of the system, which may block indefinitely."""
    options = parse()
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.chdir(options.folder)
    well = Session(options, output).run()
    output.flush()
    sys.stderr.flush()
    os._exit(0 if well else 1)


if __name__ == "__main__":
    main()
