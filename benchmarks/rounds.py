"""The rounds: sessions in the order A B C A B C, each in its own directory and always ended."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import processes
from .environments import CACHE
from .peers.base import ROOT
from .redis_server import BINARY, find_binary
from .works import PASSES, WORKS

#: Finished tasks in the ledger in W7old.
OLD_TASKS = 1_000_000
#: Seconds that a session may take in addition to the limits of its runs.
SLACK = 300


def plan(only: list[str], names: list[str], rounds: int) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (round, system, works) of each session, in order."""
    for number in range(1, rounds + 1):
        for together in PASSES:
            own = [name for work in together for name in WORKS[work].systems]
            for name in own or names:
                works = [work for work in together if work in only and _takes_part(name, work, number)]
                if works:
                    yield number, name, works


def _takes_part(name: str, work: str, number: int) -> bool:
    if WORKS[work].systems:
        return name in WORKS[work].systems
    if name == "umbel":
        return True
    suited = WORKS[work].suited
    measured = WORKS[work].peers and (WORKS[work].every_round or number == 1)
    return measured and (not suited or name in suited)


def run_session(
    options: argparse.Namespace, python: str, name: str, works: list[str], number: int
) -> Iterator[dict[str, Any]]:
    """Run one session; yield its records."""
    mark = uuid.uuid4().hex
    runs = CACHE / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=runs))
    command = [python, "-m", "benchmarks.session", "--peer", name, "--works", ",".join(works)]
    command += ["--round", str(number), "--folder", str(folder)]
    command += ["--limit", str(options.limit), "--settle", str(options.settle)]
    if options.quick:
        command.append("--quick")
    if works == ["W7old"]:
        command += ["--old-tasks", str(OLD_TASKS // 10 if options.quick else OLD_TASKS)]
    well = False
    with (folder / "records").open("w+") as records, (folder / "session.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_environment(python, mark), stdout=records, stderr=log
        )
        try:
            time_limit = sum(len(WORKS[work].sizes) * max(options.limit, WORKS[work].limit) for work in works)
            well = process.wait(SLACK + time_limit) == 0
        except subprocess.TimeoutExpired:
            print(f"{name}: the session exceeded its time limit", file=sys.stderr)
        finally:
            _end(process, folder, mark)
        records.seek(0)
        found = [json.loads(line) for line in records if line.endswith("\n")]
    yield from found
    if not well and not any("error" in record for record in found):
        yield {
            "peer": name,
            "work": "error",
            "round": number,
            "error": f"the session ended unexpectedly, see {folder.name}",
        }
    if well and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(python: str, mark: str) -> Mapping[str, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("UMBEL_")}
    paths = [str(ROOT), str(ROOT / "sdk")]
    return {
        **environ,
        "PYTHONPATH": os.pathsep.join(paths),
        # helper programs of a peer (Parsl) are in the directory of its interpreter
        "PATH": os.path.dirname(python) + os.pathsep + environ.get("PATH", ""),
        processes.MARK: mark,
        BINARY: find_binary(),
    }


def _end(process: subprocess.Popen[bytes], folder: Path, mark: str) -> None:
    """End a session, the processes in its list, and those with its mark."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    started = {pid: found.start for pid, found in processes.of_session(mark).items()}
    noted = folder / "pids"
    if noted.exists():
        for line in noted.read_text().splitlines():
            pid, start = map(int, line.split())
            started[pid] = start
    left = processes.end(started)
    if left:
        print(f"still alive: {left}", file=sys.stderr)
