"""Performance goals of Umbel, as ratios within one run, and whether they are met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from .tables import Record, Table, by_round, ratios, short

#: Most memory of a process of the service, MiB.
MAX_SERVICE_MEMORY = 400
#: The same with many slots, MiB.
MAX_LARGE_MEMORY = 500
#: Most memory of each process, the client's included, that carries arrays of 9 MB, MiB.
MAX_ARRAYS_MEMORY = 300
#: Most memory of the client of W10, MiB.
MAX_CLIENT_MEMORY = 100
#: Roles of the processes of the service.
SERVICE = {"web", "collect", "sweep", "up", "redis"}
#: Roles of all processes.
ALL = SERVICE | {"client", "endpoint", "runners"}


@dataclass(frozen=True)
class Goal:
    """``value``: the result of each round; its median must be >= ``minimum``, or <= ``maximum``."""

    name: str
    value: Callable[[Sequence[Record]], list[float]]
    minimum: float | None = None
    maximum: float | None = None

    def line(self, records: Sequence[Record]) -> list[str] | None:
        """Return name, goal, median and verdict; None if it was not measured."""
        values = self.value(records)
        if not values:
            return None
        middle = statistics.median(values)
        met = middle >= self.minimum if self.minimum is not None else middle <= (self.maximum or 0.0)
        goal = f"≥ {self.minimum:g}" if self.minimum is not None else f"≤ {self.maximum:g}"
        return [self.name, goal, short(middle), "met" if met else "MISSED"]


def _against(peer: str, work: str, n: int, key: str) -> Callable[[Sequence[Record]], list[float]]:
    return lambda records: ratios(
        by_round(records, "umbel", work, n, key), by_round(records, peer, work, n, key)
    )


def _own(work: str, key: str) -> Callable[[Sequence[Record]], list[float]]:
    return lambda records: list(by_round(records, "umbel", work, None, key).values())


def _on_postgresql(peer: str) -> Callable[[Sequence[Record]], list[float]]:
    """W18's rate in relation to W1's, which is that of SQLite."""
    return lambda records: ratios(
        by_round(records, peer, "W18", 10_000, "tasks_per_s"),
        by_round(records, "umbel", "W1", 10_000, "tasks_per_s"),
    )


def _growth(key: str, work: str, n: int, base: str, base_n: int) -> Callable[[Sequence[Record]], list[float]]:
    return lambda records: ratios(
        by_round(records, "umbel", work, n, key), by_round(records, "umbel", base, base_n, key)
    )


def _after_fastest(records: Sequence[Record]) -> list[float]:
    """W9: delay of Umbel's median first result after that of the fastest peer, seconds."""
    medians = {
        peer: statistics.median(found.values())
        for peer in dict.fromkeys(record["peer"] for record in records if record["work"] == "W9")
        if (found := by_round(records, peer, "W9", 1, "first_s"))
    }
    own = medians.pop("umbel", None)
    return [own - min(medians.values())] if own is not None and medians else []


def _faults(work: str) -> Callable[[Sequence[Record]], list[float]]:
    """Starts of calls that had started before, and calls that never started, in each round."""
    return lambda records: [
        float(record["again"] + abs(record["missing"])) for record in records if record["work"] == work
    ]


def _worst(
    work: str, key: str, kind: str, choose: Callable[[list[float]], float] = max
) -> Callable[[Sequence[Record]], list[float]]:
    """The largest value of all cases of one kind ("": of all) in each round."""

    def value(records: Sequence[Record]) -> list[float]:
        found: dict[int, list[float]] = {}
        for record in records:
            if record["work"] == work and key in record and kind in ("", record["kind"]):
                found.setdefault(record["round"], []).append(record[key])
        return [choose(values) for values in found.values()]

    return value


def _largest(work: str, roles: Collection[str]) -> Callable[[Sequence[Record]], list[float]]:
    """The largest memory of a process with one of these roles in each round, MiB."""
    return lambda records: [
        max([peak for name, peak in record["peak_mb"] if name in roles], default=0.0)
        for record in records
        if (record["peer"], record["work"]) == ("umbel", work)
    ]


GOALS = (
    Goal("W1: 10,000 no-ops, × Parsl", _against("parsl", "W1", 10_000, "tasks_per_s"), minimum=4),
    Goal("W1: 10,000 no-ops, × Celery", _against("celery", "W1", 10_000, "tasks_per_s"), minimum=10),
    Goal("W2: round trip p50, × Celery's", _against("celery", "W2", 300, "p50_ms"), maximum=5),
    Goal("W2: round trip p95, × Celery's", _against("celery", "W2", 300, "p95_ms"), maximum=5),
    Goal("W3: 100 kB echo, × Celery", _against("celery", "W3", 500, "tasks_per_s"), minimum=1.5),
    Goal("W4: 1 ms calls, efficiency", _own("W4", "efficiency"), minimum=0.85),
    Goal("W5: 100,000 no-ops, × W1's rate", _growth("tasks_per_s", "W5", 100_000, "W1", 10_000), minimum=0.8),
    Goal("W5: largest process of the service, MiB", _largest("W5", SERVICE), maximum=MAX_SERVICE_MEMORY),
    Goal("W6: mixed calls, makespan / ideal", _own("W6", "stretch"), maximum=1.15),
    Goal(
        "W7: time per task, 100,000 / 10,000",
        _growth("us_per_task", "W7", 100_000, "W7", 10_000),
        maximum=1.25,
    ),
    Goal("W10: a million calls, client, MiB", _largest("W10", {"client"}), maximum=MAX_CLIENT_MEMORY),
    Goal("W10: largest process of the service, MiB", _largest("W10", SERVICE), maximum=MAX_SERVICE_MEMORY),
    Goal("W16: no-ops on 131,072 slots, tasks/s", _own("W16", "tasks_per_s"), minimum=5_000),
    Goal("W16: CPU of the service, × that with 64 slots", _own("W16", "service_ratio"), maximum=1.25),
    Goal("W16: largest process of the service, MiB", _largest("W16", SERVICE), maximum=MAX_LARGE_MEMORY),
    Goal("W16: calls executed again or not at all", _faults("W16"), maximum=0),
    Goal("W16: 8,192 calls of 30 s, collector, cores", _own("W16long", "collect_share"), maximum=0.25),
    Goal("W16: long calls executed again or not at all", _faults("W16long"), maximum=0),
    *(
        goal
        for kind in ("other endpoint", "same endpoint, priority 100", "same user")
        for goal in (
            Goal(f"W17: lone calls, {kind}, p50, × idle", _worst("W17", "p50_ratio", kind), maximum=2),
            Goal(f"W17: lone calls, {kind}, p95, × idle", _worst("W17", "p95_ratio", kind), maximum=4),
        )
    ),
    Goal("W17: rate of the bags, × without lone calls", _worst("W17", "bulk_ratio", "", min), minimum=0.8),
    Goal("W18: PostgreSQL, 1 + 1 processes, × W1", _on_postgresql("umbel-postgresql"), minimum=0.6),
    Goal("W18: PostgreSQL, 2 + 2 processes, × W1", _on_postgresql("umbel-postgresql-2"), minimum=0.8),
    Goal("W19: slowest route, p95 ms", _worst("W19", "p95_ms", "route"), maximum=300),
    Goal("W19: errors", _worst("W19", "errors", "all"), maximum=0),
    Goal("W19: idle service, cores", _worst("W19", "idle_share", "idle"), maximum=0.05),
    Goal(
        "W20: callables of many kinds, × W1's rate",
        _growth("tasks_per_s", "W20", 2_000, "W1", 2_000),
        minimum=0.5,
    ),
    Goal("W21: 20 functions, × W1's rate", _growth("tasks_per_s", "W21", 2_000, "W1", 2_000), minimum=0.5),
    *(
        Goal(f"W22: arrays of {size}, MB/s, × {peer}", _against(peer.lower(), work, n, "mb_per_s"), minimum=1)
        for work, n, size in (("W22small", 500, "0.1 MB"), ("W22", 60, "1 MB"), ("W22large", 7, "9 MB"))
        for peer in ("Parsl", "Dask")
    ),
    Goal("W22: 9 MB, largest process, MiB", _largest("W22large", ALL), maximum=MAX_ARRAYS_MEMORY),
    Goal("W9: first result, seconds after the faster peer's", _after_fastest, maximum=1),
    Goal("W9: scheduler commands/min, × Parsl", _against("parsl", "W9", 1, "per_minute"), maximum=0.99),
    Goal(
        "W7: time per task, old tasks / none",
        _growth("us_per_task", "W7old", 10_000, "W7", 10_000),
        maximum=1.25,
    ),
)


def goal_tables(records: Sequence[Record]) -> list[Table]:
    """Return the table of all goals that were measured, if there are any."""
    lines = [line for goal in GOALS if (line := goal.line(records)) is not None]
    return [Table("Goals of Umbel", ("measurement", "goal", "median", "verdict"), lines)] if lines else []
