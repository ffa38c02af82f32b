"""Cost of the ledger's operations as the open bundles of one endpoint grow.

``python -m benchmarks.ledger_costs [--slots 1024,131072] [--database URL]``: fill a new ledger, carry out
each operation some times in this process, print the median in milliseconds (SQLite: CPU time of the process;
PostgreSQL: elapsed time). The broker is not used.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, text

from federation import dispatch
from federation.config.settings import Settings
from federation.context import Federation, open_federation
from federation.db.tables import (
    blobs,
    bundles,
    endpoints,
    estimates,
    functions,
    groups,
    loads,
    nodes,
    submissions,
    tasks,
)
from federation.ledger import node_rows
from federation.ledger.apply_reports import apply_reports
from federation.ledger.submit import Submission, submit
from federation.provision.planning import demand
from federation.registry import endpoints as registry
from federation.registry import users
from umbel.protocol import names
from umbel.protocol.messages import OpenReport, Row, Status
from umbel.protocol.node_state import Beat, NodeState

#: Slots of each node, queued calls behind those that run, and repetitions of each operation.
NODE_SLOTS, QUEUED, REPETITIONS = 64, 2000, 7
#: Beats that are recorded in one transaction.
BEATS = 16


class Bench:
    """One ledger with one endpoint, all of whose slots run one call each."""

    def __init__(self, fed: Federation, slots: int):
        self.fed, self.slots = fed, slots
        self.user = users.ensure_user(fed, "ada")
        self.now = time.time()
        with fed.database.write() as connection:
            self._fill(connection)
            self.held = self._held(connection)
            query = select(nodes.c.no, nodes.c.instance).order_by(nodes.c.no).limit(BEATS)
            self.nodes = [(row.no, row.instance) for row in connection.execute(query)]

    def _fill(self, connection: Connection) -> None:
        now, user_no = self.now, self.user.no
        self.endpoint_id, self.function_id = names.new_id(), names.new_id()
        own = {"user_no": user_no, "created": now}
        key = {"public_key": bytes(32), "broker_sha256": "x", "meta": "{}"}
        self.endpoint_no = _add(connection, endpoints, id=self.endpoint_id, name="lab", **own, **key)
        body = {"name": "f", "sha256": "a", "size": 1, "body": b"x"}
        function_no = _add(connection, functions, id=self.function_id, **own, **body)
        place = {"endpoint_no": self.endpoint_no, "function_no": function_no}
        connection.execute(insert(estimates).values(**place, seconds=60.0, updated=now))
        total = self.slots + QUEUED
        group_no = _add(connection, groups, id=names.new_id(), size=total, **own)
        submission_no = _add(connection, submissions, group_no=group_no, options="{}", **own, **place)
        blob_no = _add(connection, blobs, data=b"x", refs=total)
        self._add_nodes(connection)
        node_nos = list(connection.execute(select(nodes.c.no).order_by(nodes.c.no)).scalars())
        bundle = {**place, "size": 1, "open": 1, "cores": 1, "sent": now}
        _add_many(
            connection,
            bundles,
            self.slots,
            lambda no: {**bundle, "no": no + 1, "id": names.new_id()},
        )
        task = {**own, **place, "group_no": group_no, "submission_no": submission_no, "priority": 0}
        task |= {"blob_no": blob_no, "blob_offset": 0, "blob_size": 1}
        ids = names.new_task_ids(total, now)
        runs = {**task, "state": "running", "attempt": 1, "started": now, "dispatched": now}
        _add_many(
            connection,
            tasks,
            self.slots,
            lambda no: {**runs, "id": ids[no], "bundle_no": no + 1, "node_no": node_nos[no // NODE_SLOTS]},
        )
        waits = {**task, "state": "queued", "attempt": 0}
        _add_many(connection, tasks, QUEUED, lambda no: {**waits, "id": ids[self.slots + no]})
        totals = {"live": total, "sent": self.slots, "running": self.slots, "occupied": self.slots}
        connection.execute(insert(loads).values(endpoint_no=self.endpoint_no, user_no=user_no, **totals))

    def _add_nodes(self, connection: Connection) -> None:
        facts = json.dumps({"python": "3.11.7", "cpu": "x" * 200})
        packages = json.dumps({f"package{no}": "1.0" for no in range(300)})
        node = {"endpoint_no": self.endpoint_no, "live": 1, "since": self.now, "incarnation": 1, "version": 1}
        node |= {"slots": NODE_SLOTS, "busy": NODE_SLOTS, "facts": facts, "packages": packages}
        many = -(-self.slots // NODE_SLOTS)
        _add_many(
            connection,
            nodes,
            many,
            lambda no: {**node, "name": f"n{no}", "instance": f"i{no}", "seen": self.now},
        )

    def _held(self, connection: Connection) -> list[tuple[str, str]]:
        """Return bundle and task ids of the first node."""
        query = (
            select(bundles.c.id, tasks.c.id)
            .join(tasks, tasks.c.bundle_no == bundles.c.no)
            .join(nodes, nodes.c.no == tasks.c.node_no)
            .where(nodes.c.name == "n0", bundles.c.endpoint_no == self.endpoint_no)
        )
        return [(row[0], row[1]) for row in connection.execute(query)]

    def apply(self, rows: Sequence[Row]) -> None:
        """Apply one report of the first node."""
        report = OpenReport(
            *(names.new_id(), self.endpoint_id, "n0", "i0", time.time(), list(rows), False, b"abc")
        )
        with self.fed.database.write() as connection:
            apply_reports(self.fed, connection, [report], time.time())

    def operations(self) -> dict[str, Callable[[], Any]]:
        """The operations by name."""
        turns = itertools.cycle(self.held)
        numbers = itertools.count(1)

        def report(status: str) -> None:
            bundle, task = next(turns)
            self.apply([Row(bundle, task, 1, status, time.time(), 60.0, None, None, None, 0, 3)])

        def beats() -> None:
            with self.fed.database.write() as connection:
                beat = Beat(1, next(numbers), NODE_SLOTS)
                node_rows.record_beats(connection, [(no, id, beat) for no, id in self.nodes], time.time())

        def describe() -> None:
            facts = {"packages": {f"package{no}": "1.0" for no in range(300)}}
            state = NodeState(self.endpoint_id, "n0", "i0", 1, 1 + next(numbers), NODE_SLOTS, facts)
            with self.fed.database.write() as connection:
                node_rows.record_description(connection, self.endpoint_no, state, Beat(1, 1), time.time())

        def refill() -> None:
            with self.fed.database.write() as connection:
                dispatch.refill(self.fed, connection, self.endpoint_no, time.time())

        def observe() -> None:
            with self.fed.database.read() as connection:
                demand.observe(connection, self.endpoint_no, time.time())

        return {
            f"beats of {len(self.nodes)} nodes": beats,
            "description of a node": describe,
            "RUNNING report": lambda: report(Status.RUNNING),
            "refill of a full window": refill,
            "submission of 1 call": lambda: submit(
                self.fed, self.user, Submission(self.function_id, "lab", [b"x"]), names.new_id()
            ),
            "GET /v1/endpoints/{id}": lambda: registry.get(self.fed, self.user, "lab"),
            "demand": observe,
            "report of an end": lambda: report(Status.SUCCEEDED),
        }


def _add(connection: Connection, table: Any, **values: Any) -> int:
    """Insert one row; return its number."""
    return int(connection.execute(insert(table).values(**values).returning(table.c.no)).scalar_one())


def _add_many(
    connection: Connection, table: Any, count: int, columns: Callable[[int], dict[str, Any]]
) -> None:
    """Insert rows. ``columns``: returns a row by its number from 0; columns that do not exist are skipped."""
    for first in range(0, count, 5000):
        rows = map(columns, range(first, min(count, first + 5000)))
        known = [{name: value for name, value in row.items() if name in table.c} for row in rows]
        connection.execute(insert(table), known)


def measure(fed: Federation, slots: int) -> dict[str, float]:
    """Return the median cost of each operation in milliseconds."""
    bench = Bench(fed, slots)
    if not fed.database.sqlite:
        with fed.database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
    clock = time.process_time if fed.database.sqlite else time.perf_counter
    costs = {}
    for name, act in bench.operations().items():
        spent = []
        for _ in range(REPETITIONS):
            began = clock()
            act()
            spent.append(1000 * (clock() - began))
        costs[name] = statistics.median(spent)
    return costs


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", default="1024,16384,131072", help="sizes of the endpoint, in slots")
    parser.add_argument("--database", default="", help="URL of an empty database (default: SQLite)")
    options = parser.parse_args()
    dispatch.send = lambda *_: None
    sizes = [int(size) for size in options.slots.split(",")]
    columns = []
    for slots in sizes:
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(
                home=Path(folder), broker_url="redis://127.0.0.1:1/0", database_url=options.database
            )
            fed = open_federation(settings)
            try:
                columns.append(measure(fed, slots))
            finally:
                fed.close()
    print(f"{'':28}" + "".join(f"{slots:>10}" for slots in sizes))
    for name in columns[0]:
        print(f"{name:28}" + "".join(f"{costs[name]:10.2f}" for costs in columns))


if __name__ == "__main__":
    main()
