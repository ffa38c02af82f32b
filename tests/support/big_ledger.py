"""Fill a ledger with many rows, inside the database, so that the cost of statements shows."""

from __future__ import annotations

from sqlalchemy import Connection, text

from federation.db.tables import metadata
from tests.support.endpoint import FakeEndpoint
from tests.support.ledger import Ledger

#: Finished tasks, running tasks with a bundle each, queued tasks, nodes of the big endpoint, and other rows.
FINISHED, SENT, QUEUED, NODES, OTHERS = 120_000, 60_000, 20_000, 2_048, 5_000
#: Groups of finished tasks, and groups of one queued task each; the other queued tasks share a group.
GROUPS, SINGLE = 12_000, 10_000
#: Calls of each submission that is not finished.
PER_SUBMISSION = 5_000
#: Slots of each node: less than the bundles sent, so that no more calls of long functions are sent.
SLOTS = 20


def fill(ledger: Ledger, lab: FakeEndpoint) -> None:
    """Add rows to every table; most belong to the ledger's user and to ``lab``."""
    with ledger.fed.database.write() as connection:
        filler = _Filler(connection, ledger, lab)
        filler.registry()
        filler.nodes()
        filler.submissions()
        filler.finished()
        filler.unfinished()
        filler.belongings()
    if not ledger.fed.database.sqlite:
        with ledger.fed.database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))


class _Filler:
    def __init__(self, connection: Connection, ledger: Ledger, lab: FakeEndpoint):
        self.connection = connection
        self.now = ledger.clock()
        self.blob = "X'78'" if ledger.fed.database.sqlite else "CAST('x' AS bytea)"
        function = connection.execute(
            text("SELECT no FROM functions WHERE id = :id"), {"id": ledger.function_id}
        )
        self.me, self.lab, self.function = ledger.me.no, lab.no, function.scalar_one()

    def insert(self, table: str, count: int, **columns: object) -> None:
        """Insert ``count`` rows; ``columns``: SQL expressions of the row's number ``i``, from 0."""
        known = metadata.tables[table].c
        columns = {name: value for name, value in columns.items() if name in known}
        self.connection.execute(
            text(
                f"INSERT INTO {table} ({', '.join(columns)}) "
                "WITH RECURSIVE n(i) AS "
                f"(SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {count - 1}) "
                f"SELECT {', '.join(map(str, columns.values()))} FROM n"
            )
        )
        if self.connection.dialect.name == "postgresql" and "no" in columns:
            self.connection.execute(
                text(f"SELECT setval(pg_get_serial_sequence('{table}', 'no'), (SELECT max(no) FROM {table}))")
            )

    def registry(self) -> None:
        """Users, tokens, functions, endpoints, sites, blocks and nodes."""
        now = self.now
        self.insert("users", 500, no="1000 + i", id="'user' || i", name="'user' || i", created=now)
        self.insert("tokens", OTHERS, user_no="1000 + i % 500", sha256="'token' || i", created=now)
        self.insert(
            "functions",
            OTHERS,
            **{"no": "1000 + i", "id": "'function' || i", "name": "'f' || i", "sha256": "'sha' || i"},
            user_no=f"CASE WHEN i % 2 = 0 THEN {self.me} ELSE 1000 + i % 500 END",
            **{"size": 1, "body": self.blob, "created": now},
        )
        self.insert(
            "endpoints",
            OTHERS,
            **{"no": "1000 + i", "id": "'endpoint' || i", "name": "'e' || i"},
            user_no=f"CASE WHEN i % 10 = 0 THEN {self.me} ELSE 1000 + i % 500 END",
            **{"public_key": self.blob, "broker_sha256": f"'{64 * '0'}'", "created": now},
        )
        settings = '\'{"address"\\: "local", "scheduler"\\: "processes"}\''
        sites = {"settings": settings, "policy": "'{}'", "status": "'ok'", "created": now}
        self.insert("sites", OTHERS // 10, endpoint_no="1000 + i", **sites)
        self.insert(
            "blocks",
            OTHERS,
            **{"endpoint_no": "1000 + i % 500", "name": "'umbel-9-' || i", "state": "'completed'"},
            **{"nodes": 1, "slots": 1, "walltime": 60, "submitted": now, "started": now, "ended": now},
        )

    def nodes(self) -> None:
        """Live nodes of the big endpoint, live and dead ones of others."""
        now = self.now
        node = {"instance": "'i'", "slots": SLOTS, "busy": 0, "since": now, "seen": now}
        facts = '\'{"python"\\: "3.11.7"}\''
        self.insert(
            "nodes",
            NODES,
            **{"no": "1000 + i", "endpoint_no": self.lab, "name": "'umbel-0-0.n' || i", "live": 1},
            **node,
            facts=facts,
        )
        self.insert(
            "nodes",
            4 * OTHERS,
            **{"no": "10000 + i", "endpoint_no": "1000 + i % 5000", "name": "'n' || i", "live": "i % 2"},
            **node,
            facts=facts,
        )

    def submissions(self) -> None:
        """Groups and submissions."""
        now, me, lab, groups, calls = self.now, self.me, self.lab, GROUPS, FINISHED // GROUPS
        owner = f"CASE WHEN i % 5 = 4 THEN 1000 + i % 500 ELSE {me} END"
        self.insert(
            "groups",
            groups + 2 + SINGLE,
            **{"no": "1000 + i", "id": "'group' || i", "user_no": owner, "created": now},
            size=f"CASE WHEN i < {groups} THEN {calls} WHEN i < {groups + 2} THEN 0 ELSE 1 END",
            completions=f"CASE WHEN i < {groups} THEN {calls} ELSE 0 END",
        )
        self.insert(
            "submissions",
            groups + (SENT + QUEUED) // PER_SUBMISSION,
            **{"no": "1000 + i", "user_no": owner, "created": f"{now} - 50000 + i"},
            group_no=f"1000 + CASE WHEN i < {groups} THEN i ELSE {groups} END",
            endpoint_no=f"CASE WHEN i % 3 = 0 THEN 1000 + i % {OTHERS} ELSE {lab} END",
            function_no=f"1000 + i % {OTHERS}",
        )

    def finished(self) -> None:
        """Tasks that have ended."""
        now, calls = self.now, FINISHED // GROUPS
        owner = f"CASE WHEN i / {calls} % 5 = 4 THEN 1000 + i / {calls} % 500 ELSE {self.me} END"
        place = f"CASE WHEN i / {calls} % 3 = 0 THEN 1000 + i / {calls} % {OTHERS} ELSE {self.lab} END"
        self.insert("blobs", 5_000, no="1000 + i", data=self.blob, refs=1000)
        self.insert(
            "tasks",
            FINISHED,
            **{
                "id": "'done' || i",
                "submission_no": f"1000 + i / {calls}",
                "group_no": f"1000 + i / {calls}",
            },
            **{"user_no": owner, "endpoint_no": place},
            function_no=f"1000 + i / {calls} % {OTHERS}",
            state="CASE WHEN i % 2000 = 0 THEN 'failed' ELSE 'succeeded' END",
            **{"priority": 0, "attempt": 1, "blob_no": "1000 + i % 5000", "blob_offset": 0, "blob_size": 1},
            created=f"{now} - 50000 + i / {calls}",
            **{
                "started": now,
                "wall": 1,
                "finished": f"{now} + i / 1000.0",
                "completion": f"i % {calls} + 1",
            },
            node_no=f"1000 + i % {NODES}",
        )

    def unfinished(self) -> None:
        """Running tasks with a bundle each, and queued ones."""
        now, me, lab, groups = self.now, self.me, self.lab, GROUPS
        self.insert(
            "bundles",
            SENT,
            **{"no": "1000 + i", "id": "'bundle' || i", "endpoint_no": lab, "function_no": self.function},
            **{"size": 1, "open": 1, "cores": 1, "sent": now},
        )
        live = {"group_no": 1000 + groups, "endpoint_no": lab, "function_no": self.function}
        live |= {"priority": 0, "blob_no": 1000, "blob_offset": 0, "blob_size": 1}

        def submission(first: int) -> dict[str, str]:
            number = f"{first // PER_SUBMISSION + groups} + i / {PER_SUBMISSION}"
            return {"submission_no": f"1000 + {number}", "created": f"{now} - 50000 + {number}"}

        self.insert(
            "tasks",
            SENT,
            **{"id": "'sent' || i", "user_no": me, "state": "'running'", "attempt": 1},
            **{"bundle_no": "1000 + i", "dispatched": now, "started": now, "node_no": f"1000 + i % {NODES}"},
            **live,
            **submission(0),
        )
        single = f"CASE WHEN i < {QUEUED - SINGLE} THEN 0 ELSE i - {QUEUED - SINGLE} + 2 END"
        self.insert(
            "tasks",
            QUEUED,
            id="'queued' || i",
            **{"user_no": me, "state": "'queued'", "attempt": 0},
            **live | {"group_no": f"{1000 + groups} + {single}"},
            **submission(SENT),
        )
        size = f"UPDATE groups SET size = {SENT + QUEUED - SINGLE} WHERE no = {1000 + groups}"
        self.connection.execute(text(size))

    def belongings(self) -> None:
        """Loads, estimates, output, items, samples, answers and epochs."""
        now, first = self.now, "(SELECT min(no) FROM tasks)"
        self.connection.execute(
            text(
                "INSERT INTO loads (endpoint_no, user_no, live, sent, running, occupied) "
                "SELECT endpoint_no, user_no, count(*), count(bundle_no), count(bundle_no), count(bundle_no) "
                "FROM tasks WHERE finished IS NULL GROUP BY endpoint_no, user_no"
            )
        )
        self.insert("loads", 900, endpoint_no="1000 + i", user_no="1000 + i % 500", live=0)
        self.insert("estimates", 1, endpoint_no=self.lab, function_no=self.function, seconds=60, updated=now)
        others = {"seconds": 1, "updated": now}
        self.insert(
            "estimates", 4 * OTHERS, endpoint_no="1000 + i % 5000", function_no="1000 + i / 5000", **others
        )
        log = {"attempt": 1, "head": self.blob, "tail": self.blob, "total": 1}
        self.insert("logs", 4 * OTHERS, task_no=f"{first} + i", **log)
        self.insert(
            "streams", 4 * OTHERS, task_no=f"{first} + i", run=1, bundle_id="'b'", size=1, total="NULL"
        )
        items = {"first": "i % 4", "sizes": "'[1]'", "data": self.blob}
        self.insert("items", 4 * OTHERS, task_no=f"{first} + i / 4", **items)
        places = {"function_no": "1000 + i / 10", "place": "i % 10", "finished": now, "wall": 1}
        self.insert("samples", 4 * OTHERS, **places)
        answers = {"key": "'key' || i", "sha256": "'x'", "answer": "'{}'", "created": now}
        self.insert("idempotency", 4 * OTHERS, user_no="1000 + i % 500", **answers)
