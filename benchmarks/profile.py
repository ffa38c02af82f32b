"""Cost of a task in each process of Umbel: ``python -m benchmarks.profile [--work W1] [--calls 10000]``.

Starts a service of its own and runs a work several times: once undisturbed, for the processor time of each
process and the SQL statements; then once for each process, with py-spy (if it is installed) looking at it.
Leaves a text, and for each process a file of collapsed stacks that flame graph programs read.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from . import processes
from .clock import Clock
from .environments import CACHE
from .peers.umbel_service import UmbelService
from .works import WORKS, are_equal, arguments, expected

#: Samples per second of py-spy.
RATE = 250
#: Most frames to show per process.
SHOWN = 25
#: Umbel's own source files, in the notation of py-spy.
OWN_FILES = ("(umbel/", "(federation/", "(webapp/", "(endpoint_worker/")
#: Stages of a round trip, between the points in time that are known.
STAGES = (
    "submit() .. start of the server's transaction",
    "commit, dispatch, fetch, check, pass to a runner .. start of the function",
    "run time of the function",
    "outcome record, report, broker .. start of the collector's transaction",
    "commit, answer to the long poll .. return of result()",
)
COUNTING = Path(__file__).with_name("counting")


@dataclass
class Counts:
    """SQL statement -> number of executions, and of rows of parameters."""

    times: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)


class Profile:
    """One service and the work to run on it. ``folder``: directory for the service and the output."""

    def __init__(self, work: str, calls: int, folder: Path):
        self.work, self.folder = work, folder
        self.items = arguments(work, calls)
        self.wanted = expected(work, self.items)
        self.mark = os.environ[processes.MARK] = uuid.uuid4().hex
        self.counts = folder / "counts"
        self.counts.mkdir()
        self.peer = UmbelService(folder, 0)

    def start(self) -> None:
        """Start the service with processes that count their statements, and warm it up."""
        paths = [str(COUNTING), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        os.environ["UMBEL_BENCH_COUNTS"] = str(self.counts)
        self.peer.start()
        time.sleep(1.5)  # counting begins shortly after the start
        self.run()

    def run(self) -> None:
        """Run the work once. Raises RuntimeError if a result is wrong."""
        function = WORKS[self.work].function
        if self.work == "W2":
            self.trips, results = [], []
            for item in self.items:
                began = time.time()
                results += self.peer.run(function, [item])
                self.trips.append((began, time.time()))
        else:
            results = self.peer.run(function, self.items)
        if not are_equal(self.work, results, self.wanted):
            raise RuntimeError("wrong results")

    def costs(self) -> Iterator[str]:
        """Yield lines about processor time and statements."""
        before = self._statements()
        with Clock(self.mark, self.peer.roles) as clock:
            self.run()
        n = len(self.items)
        yield f"{n:,} calls in {clock.seconds:.3f} s: {n / clock.seconds:,.0f}/s"
        for name, cpu in sorted(clock.cpu.items(), key=lambda item: -item[1]):
            yield f"  {name:10} {cpu / n * 1e6:8.1f} µs CPU/task"
        if self.work == "W2":
            yield from self._stages()
        time.sleep(0.5)
        for role, after in self._statements().items():
            times = after.times - before[role].times
            rows = after.rows - before[role].rows
            yield f"  {role}: {times.total()} statements"
            for sql, count in rows.most_common(SHOWN):
                yield f"    {times[sql]:6} × ({count:7} rows of parameters) {sql[:150]}"

    def _stages(self) -> Iterator[str]:
        """Yield the duration of each stage of a round trip, from the times in the ledger."""
        with closing(sqlite3.connect(f"file:{self.folder}/home/ledger.sqlite?mode=ro", uri=True)) as ledger:
            query = "SELECT created, started, wall, finished FROM tasks ORDER BY no DESC LIMIT ?"
            rows = ledger.execute(query, (len(self.trips),)).fetchall()[::-1]
        stages: dict[str, list[float]] = {}
        for (began, ended), (created, started, wall, finished) in zip(self.trips, rows):
            moments = [began, created, started, started + wall, finished, ended]
            for name, earlier, later in zip(STAGES, moments, moments[1:]):
                stages.setdefault(name, []).append((later - earlier) * 1000)
        for name, values in stages.items():
            middle, high = statistics.median(values), sorted(values)[int(len(values) * 0.95)]
            yield f"  {middle:7.2f} ms (p95 {high:7.2f})  {name}"

    def _statements(self) -> dict[str, Counts]:
        found: dict[str, Counts] = defaultdict(Counts)
        for file in self.counts.glob("*.json"):
            for sql, (times, rows) in json.loads(file.read_text()).items():
                counts = found[processes.role(int(file.stem), self.peer.roles)]
                counts.times[sql] += times
                counts.rows[sql] += rows
        return found

    def stacks(self, pid: int, name: str) -> Iterator[str]:
        """Yield lines about where the process spends its time during the work."""
        file = self.folder / f"{name}-{pid}.collapsed"
        with sampled(pid, file):
            self.run()
        if not file.exists():
            yield f"{name} (pid {pid}): no samples from py-spy"
            return
        yield from summary(f"{name} (pid {pid})", file.read_text().splitlines())


@contextmanager
def sampled(pid: int, file: Path) -> Iterator[None]:
    """Sample a process with py-spy during the block; write collapsed stacks to ``file``."""
    options = ["--nonblocking", "--gil", "--function", "--format", "raw", "--rate", str(RATE)]
    limits = ["--pid", str(pid), "--duration", "600", "--output", str(file)]
    command = [str(_py_spy()), "record", *options, *limits]
    sampler = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1.0)  # it reads symbols before sampling
    try:
        yield
    finally:
        sampler.send_signal(signal.SIGINT)
        try:
            sampler.wait(30)
        except subprocess.TimeoutExpired:
            sampler.kill()
            sampler.wait()


def _py_spy() -> str | None:
    """Return the path of py-spy, from this environment or PATH; None if it is not installed."""
    return shutil.which("py-spy", path=os.path.dirname(sys.executable)) or shutil.which("py-spy")


def summary(name: str, lines: Sequence[str]) -> Iterator[str]:
    """Yield the share of samples per function: on top of the stack, and anywhere in it (Umbel only)."""
    alone: Counter[str] = Counter()
    together: Counter[str] = Counter()
    for line in lines:
        stack, _, samples = line.rpartition(" ")
        frames = [frame for frame in stack.split(";") if not frame.startswith(("process ", "thread "))]
        alone[frames[-1]] += int(samples)
        for frame in set(frames):
            if any(package in frame for package in OWN_FILES):
                together[frame] += int(samples)
    total = sum(alone.values())
    yield f"== {name}: {total} samples = {total / RATE:.2f} s"
    for title, counted in (("own time", alone), ("Umbel's functions, including calls", together)):
        yield f"  {title}:"
        for frame, count in counted.most_common(SHOWN):
            yield f"    {count / total:6.1%}  {frame}"


def main() -> int:
    """Run the profile and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--work", default="W1", choices=sorted(WORKS), help="work (default: W1)")
    parser.add_argument("--calls", type=int, default=10_000, help="calls (default: 10000)")
    parser.add_argument(
        "--processes", default="client,web,collect,endpoint,runners", help="processes to sample"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=CACHE / "profile",
        help="directory of the output (default: .bench/profile)",
    )
    options = parser.parse_args()
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    folder = Path(tempfile.mkdtemp(prefix="profile-", dir=options.output))
    with (options.output / "profile.txt").open("w") as file:

        def emit(line: str) -> None:
            print(line, flush=True)
            print(line, file=file, flush=True)

        profile = Profile(options.work, options.calls, folder)
        try:
            profile.start()
            _report(profile, options.processes.split(","), emit)
        finally:
            started = {pid: found.start for pid, found in processes.of_session(profile.mark).items()}
            started.pop(os.getpid(), None)
            profile.peer.stop()
            processes.end(started)
    return 0


def _report(profile: Profile, wanted: Sequence[str], emit: Callable[[str], None]) -> None:
    for line in profile.costs():
        emit(line)
    if _py_spy() is None:
        emit("py-spy is not installed: stacks are not sampled")
        return
    for pid in processes.of_session(profile.mark):
        name = processes.role(pid, profile.peer.roles)
        if name in wanted:
            wanted = [other for other in wanted if other != name]  # only the first of several runners
            for line in profile.stacks(pid, name):
                emit(line)


if __name__ == "__main__":
    sys.exit(main())
