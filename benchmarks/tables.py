"""Tables of medians and ratios from the records of a benchmark.

A cell is the median of the rounds, with the smallest and largest value in brackets. Ratios are computed per
round, between sessions that ran shortly after each other; a cell shows their median.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .works import WORKS

Record = dict[str, Any]
#: System that ratios refer to.
BASE = "celery"
#: A system is marked with "~" if other programs used more than this share of the machine during a run.
NOISY = 0.15


@dataclass(frozen=True)
class Column:
    """A measured value: key in the records, column heading, whether ratios to BASE are shown."""

    key: str
    head: str
    ratio: bool = False


_RATE = Column("tasks_per_s", "tasks/s", True)
_CPU = Column("cpu_ms_per_task", "CPU ms/task")
#: Work -> columns of its table; the first is plotted.
COLUMNS = {
    "W1": (_RATE, _CPU),
    "W2": (
        Column("p50_ms", "p50 ms", True),
        Column("p95_ms", "p95 ms", True),
        Column("p99_ms", "p99 ms"),
        Column("max_ms", "max ms"),
    ),
    "W3": (_RATE, Column("mb_per_s", "MB/s"), _CPU),
    "W4": (Column("efficiency", "efficiency", True), Column("of_bare", "of bare naps"), _RATE),
    "W5": (_RATE, _CPU),
    "W6": (Column("stretch", "makespan / ideal", True), Column("seconds", "s")),
    "W7": (Column("us_per_task", "µs/task"), Column("tasks_per_s", "tasks/s"), _CPU),
}
COLUMNS["W8"] = (Column("cold_ms", "cold ms"), Column("start_ms", "start ms"), Column("warm_ms", "warm ms"))
COLUMNS["W9"] = (
    Column("first_s", "first result s"),
    Column("burst_s", "240 calls s"),
    Column("extra_node_seconds", "extra node-seconds"),
    Column("burst_commands", "commands for 240 calls"),
    Column("per_minute", "commands/min with 100 jobs"),
    Column("commands", "commands in total"),
)
COLUMNS["W7old"] = COLUMNS["W7"]
COLUMNS["W10"] = COLUMNS["W5"]
_ONCE = (Column("again", "executed again"), Column("missing", "not executed"))
COLUMNS["W16"] = (_RATE, _CPU, Column("service_ratio", "CPU of the service, × 64 slots"), *_ONCE)
COLUMNS["W16long"] = (Column("collect_share", "collector, cores"), *_ONCE)
COLUMNS["W17"] = (
    Column("p50_ms", "p50 ms"),
    Column("p95_ms", "p95 ms"),
    Column("max_ms", "max ms"),
    Column("p50_ratio", "p50, × idle"),
    Column("p95_ratio", "p95, × idle"),
    Column("bulk_per_s", "bags, tasks/s"),
    Column("bulk_ratio", "bags, × alone"),
)
COLUMNS["W18"] = (Column("tasks_per_s", "tasks/s"), _CPU)
COLUMNS["W19"] = (
    *COLUMNS["W17"][:3],
    Column("calls", "requests"),
    Column("errors", "errors"),
    Column("idle_share", "idle service, cores"),
)
COLUMNS["W20"] = COLUMNS["W21"] = COLUMNS["W1"]
COLUMNS["W22"] = COLUMNS["W22small"] = COLUMNS["W22large"] = (
    Column("mb_per_s", "MB/s, both ways"),
    *COLUMNS["W1"],
)


@dataclass(frozen=True)
class Table:
    """Title, column headings, and rows of cells."""

    title: str
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]


def by_round(records: Iterable[Record], peer: str, work: str, n: int | None, key: str) -> dict[int, float]:
    """Return the value of a system by round: the median if it ran several times."""
    found: dict[int, list[float]] = {}
    for record in records:
        if (
            (record["peer"], record["work"]) == (peer, work)
            and n in (None, record.get("n"))
            and key in record
        ):
            found.setdefault(record["round"], []).append(record[key])
    return {number: statistics.median(values) for number, values in found.items()}


def ratios(values: dict[int, float], base: dict[int, float]) -> list[float]:
    """Return the ratio to ``base`` for each round with both values; a single base is used for all rounds."""
    if len(base) == 1:
        (lone,) = base.values()
        return [value / lone for value in values.values()]
    return [value / base[number] for number, value in values.items() if number in base]


def short(value: float) -> str:
    """Format a number with three digits, or all digits before the decimal point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cell(values: Sequence[float]) -> str:
    """Format the median, and the extremes if there are several values."""
    if not values:
        return ""
    middle = short(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({short(min(values))} - {short(max(values))})"


def work_tables(records: Sequence[Record]) -> list[Table]:
    """Return one table for each work and number of calls."""
    tables = []
    for work in WORKS.values():
        for n in sorted({record["n"] for record in records if record["work"] == work.name}):
            tables.append(_work_table(records, work.name, n))
    return tables


def _work_table(records: Sequence[Record], work: str, n: int) -> Table:
    mine = [record for record in records if record["work"] == work and record["n"] == n]
    heads = ["system"]
    for column in COLUMNS[work]:
        heads += [column.head, f"× {BASE}"] if column.ratio else [column.head]
    lines = []
    for peer, case in dict.fromkeys((record["peer"], record.get("case", "")) for record in mine):
        own = [r for r in mine if (r["peer"], r.get("case", "")) == (peer, case)]
        noisy = any(record["others"] > NOISY for record in own)
        line = [("~" if noisy else "") + (f"{peer}: {case}" if case else peer)]
        for column in COLUMNS[work]:
            values = by_round(own, peer, work, n, column.key)
            line.append(cell(list(values.values())))
            if column.ratio:
                line.append(cell(ratios(values, by_round(mine, BASE, work, n, column.key))))
        lines.append(line)
    old = max(record.get("old_tasks", 0) for record in mine)
    title = f"{work}: {n:,} {WORKS[work].title}" + (f" ({old:,})" if old else "")
    return Table(title, heads, lines)


def process_tables(records: Sequence[Record]) -> list[Table]:
    """Return Umbel's processor time per task and process, and every system's peak memory, per work."""
    lines = []
    for work, n in dict.fromkeys((r["work"], r["n"]) for r in records if "cpu_ms_per_task_by_process" in r):
        mine = [r for r in records if (r["peer"], r["work"], r.get("n")) == ("umbel", work, n)]
        for name in sorted({name for record in mine for name in record["cpu_ms_per_task_by_process"]}):
            values = [record["cpu_ms_per_task_by_process"].get(name, 0.0) for record in mine]
            lines.append([f"{work} {n:,}", name, cell(values)])
    tables = [Table("Umbel: processor time", ("work", "process", "CPU ms/task"), lines)] if lines else []
    works = dict.fromkeys(record["work"] for record in records if "peak_mb" in record)
    return tables + [_memory_table(work, [r for r in records if r["work"] == work]) for work in works]


def _memory_table(work: str, records: Sequence[Record]) -> Table:
    lines = []
    for peer in dict.fromkeys(record["peer"] for record in records):
        peaks = [peak for record in records if record["peer"] == peer for peak in record["peak_mb"]]
        for name in sorted({name for name, _ in peaks}):
            lines.append([peer, name, short(max(peak for what, peak in peaks if what == name))])
    return Table(f"{work}: largest peak memory", ("system", "process", "MiB"), lines)


def faults(records: Sequence[Record]) -> list[str]:
    """Return the errors, one line each."""
    return [f"{r['peer']}, round {r['round']}: {r['error']}" for r in records if "error" in r]
