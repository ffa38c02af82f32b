"""Replay a trace of demand in virtual time and report what a policy costs."""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from umbel.protocol.errors import BadRequest, UmbelError

from ..planning.policy import Policy
from .cluster import Arrival, SimulatedSite, Simulation, Totals

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Virtual time at which a simulation ends, seconds.
LONGEST = 30 * 86400.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m federation provision simulate", description=__doc__)
    parser.add_argument(
        "--trace",
        type=Path,
        required=True,
        help="CSV file with the columns time,calls,seconds[,function]; times in seconds",
    )
    parser.add_argument(
        "--policy", type=Path, required=True, help="TOML file with the tables [policy] and [site]"
    )
    parser.add_argument("--plot", type=Path, help="write a plot of demand and blocks (PNG, SVG or PDF)")
    parser.add_argument("--decisions", action="store_true", help="print every action with its reason")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    flags = parser.parse_args(argv)
    try:
        trace = read_trace(flags.trace)
        policy, site = read_policy(flags.policy)
    except UmbelError as error:
        print(f"umbel: {error.message}", file=sys.stderr)
        return 2
    simulation = Simulation(trace, policy, site)
    totals = simulation.run(LONGEST)
    if flags.decisions:
        _show_decisions(totals)
    result = report(simulation, trace)
    if flags.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:<22} {value:,.6g}")
    return _plot(totals, flags.plot) if flags.plot else 0


def read_trace(file: Path) -> list[Arrival]:
    """Read arrivals from a CSV file with a header. Raises BadRequest with the line number."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    except OSError as error:
        raise BadRequest(f"cannot read {file}: {error.strerror}") from None
    trace = []
    for number, row in enumerate(rows, 2):
        try:
            arrival = Arrival(
                float(row["time"]), int(row["calls"]), float(row["seconds"]), row.get("function") or "f"
            )
        except (KeyError, TypeError, ValueError):
            raise BadRequest(
                f"{file}, line {number}: the columns time, calls and seconds must be numbers"
            ) from None
        numbers = arrival[:3]
        if not all(math.isfinite(value) and value >= 0 for value in numbers):
            raise BadRequest(
                f"{file}, line {number}: the columns time, calls and seconds must be finite and not negative"
            )
        trace.append(arrival)
    return trace


def read_policy(file: Path) -> tuple[Policy, SimulatedSite]:
    """Read ``[policy]`` and ``[site]``. Raises BadRequest for unknown keys and invalid values."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadRequest(f"cannot read {file}: {error}") from None
    unknown = sorted(set(tables) - {"policy", "site"})
    if unknown:
        raise BadRequest(f"{file}: unknown table [{unknown[0]}]: only [policy] and [site] are allowed")
    values: dict[str, Any] = dict(tables.get("site", {}))
    for name in ("lost_answers", "refused", "failing"):
        if name in values:
            values[name] = frozenset(values[name])
    if "outages" in values:
        values["outages"] = tuple((start, end) for start, end in values["outages"])
    try:
        site = SimulatedSite(**values)
    except TypeError as error:
        raise BadRequest(f"{file}: [site]: {error}") from None
    if site.interval <= 0:
        raise BadRequest(f"{file}: [site]: interval must be above 0")
    return Policy.from_dict(tables.get("policy", {})), site


def report(simulation: Simulation, trace: Sequence[Arrival]) -> dict[str, float]:
    """Return the results of a run; hours are node-hours unless named otherwise."""
    totals, policy = simulation.totals, simulation.policy
    used = sum(
        job.block.nodes * ((simulation.now if job.ended is None else job.ended) - job.block.started)
        for job in simulation.jobs
        if job.block.started is not None
    )
    first = min((arrival.time for arrival in trace), default=0.0)
    return {
        "calls": sum(arrival.calls for arrival in trace),
        "finished": totals.finished,
        "makespan_seconds": max(0.0, totals.last_end - first),
        "node_hours": used / 3600.0,
        "ideal_node_hours": totals.work / policy.slots_per_node / 3600.0,
        "idle_slot_hours": (used * policy.slots_per_node - totals.work) / 3600.0,
        "submissions": totals.submissions,
        "cancellations": totals.cancellations,
        "most_blocks": max((s.pending + s.running for s in totals.samples), default=0),
    }


def _show_decisions(totals: Totals) -> None:
    for when, _, decision in totals.decisions:
        reasons = dict.fromkeys(action.reason for action in decision.actions)
        for reason in [*reasons, *([f"({decision.waiting_for})"] if decision.waiting_for else [])]:
            print(f"{when:>10.0f} s  {reason}")


def _plot(totals: Totals, file: Path) -> int:
    try:
        # imported by name, because matplotlib is optional
        importlib.import_module("federation.provision.simulation.plot").draw(totals.samples, file)
    except ImportError:
        print("umbel: --plot needs matplotlib: pip install matplotlib", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"umbel: cannot write {file}: {error}", file=sys.stderr)
        return 2
    return 0
