"""``python -m benchmarks``: run the rounds, print the tables, write the records and the plot."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from . import starts
from .environments import CACHE, python_of
from .peers import PEERS
from .plot import draw
from .publish import FIGURES, PICTURE, REFERENCE, figures, read_records, write_records
from .report import as_text, render
from .rounds import plan, run_session
from .tables import COLUMNS
from .works import WORKS


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits if a name is unknown."""
    parser = _parser()
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    options.names = ([] if options.without_umbel else ["umbel"]) + [
        name for name in options.peers.split(",") if name
    ]
    known = {*WORKS, *PEERS}
    for name in [*options.only, *options.names]:
        if name not in known:
            parser.error(f"unknown name '{name}': use {', '.join(sorted(known))}")
    if options.publish:
        options.output, options.plot = REFERENCE, PICTURE
    if "W7" in options.only:
        options.only.append("W7old")
    if "W22" in options.only:
        options.only += ["W22small", "W22large"]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Benchmark Umbel and its peers."
    )
    parser.add_argument(
        "--only",
        default="W1,W2,W3,W4,W5,W6,W7,W8,W9,W10,W20,W21,W22",
        help="works to run (default: %(default)s)",
    )
    parser.add_argument(
        "--peers", default="celery,parsl,dask,dramatiq", help="systems to compare with (default: %(default)s)"
    )
    parser.add_argument("--without-umbel", action="store_true", help="measure the peers only")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the calls: a smoke test, not a measurement"
    )
    parser.add_argument(
        "--limit", type=int, default=300, help="time limit of one run in seconds (default: 300)"
    )
    parser.add_argument(
        "--settle",
        type=float,
        default=60.0,
        help="longest wait of a session for an idle machine in seconds (default: 60)",
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the directories of the sessions in .bench/runs"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=CACHE / "results.json",
        help="file for the records (default: .bench/results.json)",
    )
    parser.add_argument("--plot", type=Path, help="file for the plot (default: --output as .svg)")
    parser.add_argument("--add", action="store_true", help="add the rounds to the existing records")
    parser.add_argument("--publish", action="store_true", help="write the reference records of the manual")
    return parser


def machine() -> dict[str, Any]:
    """Return the properties of the machine that affect the figures."""
    return {
        "processors": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all sessions; write the records to disk after each."""
    records, before = _earlier(options)
    pythons: dict[str, str] = {}
    sessions = plan(options.only, options.names, options.rounds)
    # W8 and W9 have no sessions
    for name in dict.fromkeys(name for _, name, _ in sessions):
        try:
            pythons[name] = python_of(name)
        except RuntimeError as error:
            options.names.remove(name)
            records.append({"peer": name, "work": "error", "round": 0, "error": str(error)})
    settings = {"rounds": before + options.rounds, "quick": options.quick}
    for number, name, works in plan(options.only, options.names, options.rounds):
        print(
            f"{time.strftime('%H:%M:%S')} round {number}: {name} {' '.join(works)}",
            file=sys.stderr,
            flush=True,
        )
        for record in run_session(options, pythons[name], name, works, before + number):
            records.append(record)
            print("         " + summary(record), file=sys.stderr, flush=True)
        write_records(options.output, {"machine": machine(), "settings": settings, "records": records})
    if "W8" in options.only:
        _measure_starts(options, records, before)
        write_records(options.output, {"machine": machine(), "settings": settings, "records": records})
    if "W9" in options.only:
        _measure_elastic(options, records)
        write_records(options.output, {"machine": machine(), "settings": settings, "records": records})
    return records


def _earlier(options: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    """Return the records to add to, and their number of rounds."""
    if not options.add:
        return [], 0
    data = read_records(options.output)
    return data["records"], data["settings"]["rounds"]


def _measure_starts(options: argparse.Namespace, records: list[dict[str, Any]], before: int) -> None:
    """Add the records of W8, which needs no service."""
    for number in range(before + 1, before + options.rounds + 1):
        print(f"{time.strftime('%H:%M:%S')} round {number}: W8", file=sys.stderr, flush=True)
        for record in starts.measure(number, quick=options.quick):
            records.append(record)
            print(f"         {record['peer']}: {summary(record)}", file=sys.stderr, flush=True)


def _measure_elastic(options: argparse.Namespace, records: list[dict[str, Any]]) -> None:
    """Add the records of W9, which has its own systems and creates a Slurm cluster."""
    # imported here because it needs the cluster of the end-to-end tests
    from .elastic.systems import PEERS as SYSTEMS
    from .elastic.systems import measure as measure_elastic
    from .elastic.systems import missing

    reason = missing()
    if reason:
        print(
            f"{'*' * 78}\n** SKIPPED W9, elastic endpoints: {reason}\n{'*' * 78}", file=sys.stderr, flush=True
        )
        return
    names = [*([] if options.without_umbel else ["umbel"]), *SYSTEMS]
    for record in measure_elastic(names, 1 if options.quick else options.rounds):
        records.append(record)
        print(f"         {record['peer']}: {summary(record)}", file=sys.stderr, flush=True)


def summary(record: dict[str, Any]) -> str:
    """Return a record as one line of progress."""
    if "error" in record:
        return f"{record['peer']}: {record['error']}"
    if record["work"] == "start":
        return f"started in {record['seconds']} s"
    shown = [
        f"{column.head} {record[column.key]:,}" for column in COLUMNS[record["work"]] if column.key in record
    ]
    return f"{record['work']} {record['n']:,}: " + ", ".join(shown) + f", others {record['others']:.0%}"


def main() -> int:
    """Run the benchmark; return 1 if something could not be measured."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    options = parse()
    records = measure(options)
    print(render(records, as_text))
    print(f"Records: {options.output}")
    if options.publish:
        FIGURES.write_text(figures(read_records(REFERENCE)), encoding="utf-8")
    picture = options.plot or options.output.with_suffix(".svg")
    try:
        draw(records, picture)
        print(f"Plot: {picture}")
    except ImportError:
        print("No plot: matplotlib is not installed")
    return int(any("error" in record for record in records))


if __name__ == "__main__":
    sys.exit(main())
