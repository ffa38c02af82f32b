"""What a task costs in each process of Umbel: ``python -m benchmarks.profile [--work W1] [--calls 10000]``.

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
from .works import WORKS, arguments, expected

#: Looks per second of py-spy.
RATE = 250
#: Frames shown of each process.
SHOWN = 25
#: Where our own functions are, as py-spy names files.
OURS = ("(umbel/", "(federation/", "(webapp/", "(endpoint_worker/")
#: Stages of a round trip, between the moments that are known.
STAGES = (
    "submit() .. the server's transaction begins",
    "it is committed, sent, fetched, checked, fed to a runner .. the function starts",
    "the function runs",
    "journal, report, broker .. the collector's transaction begins",
    "it is committed, the poll wakes and answers .. result() returns",
)
COUNTING = Path(__file__).with_name("counting")


@dataclass
class Counts:
    """SQL statement -> how often it was run, and with how many rows of parameters."""

    times: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)


class Profile:
    """One service and the work to run on it. ``folder``: for the service and what is written."""

    def __init__(self, work: str, calls: int, folder: Path):
        self.work, self.folder = work, folder
        self.items = arguments(work, calls)
        self.wanted = expected(work, self.items)
        self.mark = os.environ[processes.MARK] = uuid.uuid4().hex
        self.counts = folder / "counts"
        self.counts.mkdir()
        self.peer = UmbelService(folder, 0)

    def start(self) -> None:
        """Start the service so that its processes count their statements, and warm it up."""
        paths = [str(COUNTING), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        os.environ["UMBEL_BENCH_COUNTS"] = str(self.counts)
        self.peer.start()
        time.sleep(1.5)  # counting begins a moment after the start
        self.run()

    def run(self) -> None:
        """Run the work once. Raises RuntimeError for wrong results."""
        function = WORKS[self.work].function
        if self.work == "W2":
            self.trips, results = [], []
            for item in self.items:
                began = time.time()
                results += self.peer.run(function, [item])
                self.trips.append((began, time.time()))
        else:
            results = self.peer.run(function, self.items)
        if results != self.wanted:
            raise RuntimeError("wrong results")

    def costs(self) -> Iterator[str]:
        """Lines on processor time and statements."""
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
        """Lines on where the time of a round trip goes, by the moments that the ledger keeps of each task."""
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
        """Lines on where the process spends its time while the work runs."""
        file = self.folder / f"{name}-{pid}.collapsed"
        with spied(pid, file):
            self.run()
        if not file.exists():
            yield f"{name} (pid {pid}): py-spy saw nothing"
            return
        yield from summary(f"{name} (pid {pid})", file.read_text().splitlines())


@contextmanager
def spied(pid: int, file: Path) -> Iterator[None]:
    """Let py-spy look at a process during the block and write collapsed stacks to ``file``."""
    options = ["--nonblocking", "--gil", "--function", "--format", "raw", "--rate", str(RATE)]
    limits = ["--pid", str(pid), "--duration", "600", "--output", str(file)]
    command = [str(_py_spy()), "record", *options, *limits]
    spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1.0)  # it reads symbols first
    try:
        yield
    finally:
        spy.send_signal(signal.SIGINT)
        try:
            spy.wait(30)
        except subprocess.TimeoutExpired:
            spy.kill()
            spy.wait()


def _py_spy() -> str | None:
    """Path of py-spy, if it is installed: in our environment or on PATH."""
    return shutil.which("py-spy", path=os.path.dirname(sys.executable)) or shutil.which("py-spy")


def summary(name: str, lines: Sequence[str]) -> Iterator[str]:
    """Where collapsed stacks spend their time: by function alone, and with all that it calls."""
    alone: Counter[str] = Counter()
    together: Counter[str] = Counter()
    for line in lines:
        stack, _, samples = line.rpartition(" ")
        frames = [frame for frame in stack.split(";") if not frame.startswith(("process ", "thread "))]
        alone[frames[-1]] += int(samples)
        for frame in set(frames):
            if any(package in frame for package in OURS):
                together[frame] += int(samples)
    total = sum(alone.values())
    yield f"== {name}: {total} samples = {total / RATE:.2f} s"
    for title, counted in (("alone", alone), ("ours, with all they call", together)):
        yield f"  {title}:"
        for frame, count in counted.most_common(SHOWN):
            yield f"    {count / total:6.1%}  {frame}"


def main() -> int:
    """Profile; print everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--work", default="W1", choices=sorted(WORKS))
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--processes", default="client,web,collect,endpoint,runners", help="to look at")
    parser.add_argument("--output", type=Path, default=CACHE / "profile", help="default: .bench/profile")
    options = parser.parse_args()
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    folder = Path(tempfile.mkdtemp(prefix="profile-", dir=options.output))
    with (options.output / "profile.txt").open("w") as file:

        def say(line: str) -> None:
            print(line, flush=True)
            print(line, file=file, flush=True)

        profile = Profile(options.work, options.calls, folder)
        try:
            profile.start()
            _report(profile, options.processes.split(","), say)
        finally:
            started = {pid: found.start for pid, found in processes.of_session(profile.mark).items()}
            started.pop(os.getpid(), None)
            profile.peer.stop()
            processes.end(started)
    return 0


def _report(profile: Profile, wanted: Sequence[str], say: Callable[[str], None]) -> None:
    for line in profile.costs():
        say(line)
    if _py_spy() is None:
        say("py-spy is not installed: no stacks")
        return
    for pid in processes.of_session(profile.mark):
        name = processes.role(pid, profile.peer.roles)
        if name in wanted:
            wanted = [other for other in wanted if other != name]  # the first of several runners will do
            for line in profile.stacks(pid, name):
                say(line)


if __name__ == "__main__":
    sys.exit(main())
