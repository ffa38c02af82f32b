"""The tables of the registry and the ledger.

Rows are joined by small integers (``no``); ids that people and programs see are text. Times are seconds
since 1970, UTC. Payloads of a whole submission, and results of a whole report, are one row of ``blobs``
each; tasks point into it, so ten thousand calls cost one blob.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts rows by itself only in a column of type INTEGER
Number = BigInteger().with_variant(Integer, "sqlite")


def _no() -> Column[int]:
    return Column("no", Number, primary_key=True, autoincrement=True)


def _ref(name: str, target: str, **options: object) -> Column[int]:
    return Column(name, Number, ForeignKey(f"{target}.no"), **options)  # type: ignore[arg-type]


users = Table(
    "users",
    metadata,
    _no(),
    Column("id", String(36), nullable=False, unique=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("created", Float, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    _no(),
    _ref("user_no", "users", nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("label", String(128), nullable=False, server_default=""),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("revoked", Float),
)

functions = Table(
    "functions",
    metadata,
    _no(),
    Column("id", String(36), nullable=False, unique=True),
    _ref("user_no", "users", nullable=False),
    Column("name", String(256), nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("source", Text),
    Column("sha256", String(64), nullable=False),
    Column("size", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created", Float, nullable=False),
    Column("deleted", Float),
)
Index(
    "uq_functions_owner_body",
    functions.c.user_no,
    functions.c.sha256,
    unique=True,
    sqlite_where=functions.c.deleted.is_(None),
    postgresql_where=functions.c.deleted.is_(None),
)
Index("ix_functions_user", functions.c.user_no, functions.c.no)

endpoints = Table(
    "endpoints",
    metadata,
    _no(),
    Column("id", String(36), nullable=False, unique=True),
    _ref("user_no", "users", nullable=False),
    Column("name", String(64), nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("metadata", Text, nullable=False, server_default="{}", key="meta"),
    Column("public_key", LargeBinary, nullable=False),
    # sha-256 of the password of its broker account, as Redis ACLs take it
    Column("broker_sha256", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("deleted", Float),
    # whose turn came last, so that users take turns over restarts too
    Column("last_user_no", Number),
)
Index(
    "uq_endpoints_owner_name",
    endpoints.c.user_no,
    endpoints.c.name,
    unique=True,
    sqlite_where=endpoints.c.deleted.is_(None),
    postgresql_where=endpoints.c.deleted.is_(None),
)
Index("ix_endpoints_user", endpoints.c.user_no, endpoints.c.no)

nodes = Table(
    "nodes",
    metadata,
    _no(),
    _ref("endpoint_no", "endpoints", nullable=False),
    Column("name", String(128), nullable=False),
    Column("instance", String(36), nullable=False),
    Column("slots", Integer, nullable=False),
    Column("busy", Integer, nullable=False),
    Column("facts", Text, nullable=False, server_default="{}"),
    # by the server's clock: first and last heartbeat of this instance
    Column("since", Float, nullable=False),
    Column("seen", Float, nullable=False),
    # 1 while it counts as live; 0 after its goodbye or its silence
    Column("live", SmallInteger, nullable=False),
)
Index("uq_nodes_endpoint_name", nodes.c.endpoint_no, nodes.c.name, unique=True)
Index("ix_nodes_live", nodes.c.seen, sqlite_where=text("live = 1"), postgresql_where=text("live = 1"))

groups = Table(
    "groups",
    metadata,
    _no(),
    Column("id", String(36), nullable=False, unique=True),
    _ref("user_no", "users", nullable=False),
    Column("created", Float, nullable=False),
    # tasks that ever joined, and the completion number given last: they differ by the unfinished tasks
    Column("size", BigInteger, nullable=False, server_default="0"),
    Column("completions", BigInteger, nullable=False, server_default="0"),
)

submissions = Table(
    "submissions",
    metadata,
    _no(),
    _ref("group_no", "groups", nullable=False),
    _ref("user_no", "users", nullable=False),
    _ref("endpoint_no", "endpoints", nullable=False),
    _ref("function_no", "functions", nullable=False),
    # JSON of federation.ledger.options.Options
    Column("options", Text, nullable=False, server_default="{}"),
    Column("created", Float, nullable=False),
)
Index("ix_submissions_group", submissions.c.group_no)

blobs = Table(
    "blobs",
    metadata,
    _no(),
    Column("data", LargeBinary, nullable=False),
    # tasks that point here; the row goes with the last of them
    Column("refs", Integer, nullable=False),
)

bundles = Table(
    "bundles",
    metadata,
    _no(),
    Column("id", String(36), nullable=False, unique=True),
    _ref("endpoint_no", "endpoints", nullable=False),
    _ref("function_no", "functions", nullable=False),
    Column("size", Integer, nullable=False),
    # calls not yet ended or given back; the row is deleted at 0
    Column("open", Integer, nullable=False),
    Column("sent", Float, nullable=False),
    # the node that said it holds the bundle, and when
    _ref("node_no", "nodes"),
    Column("held", Float),
)
Index("ix_bundles_endpoint", bundles.c.endpoint_no)

tasks = Table(
    "tasks",
    metadata,
    _no(),
    Column("id", String(36), nullable=False, unique=True),
    Column("submission_no", Number, nullable=False),
    Column("group_no", Number, nullable=False),
    Column("user_no", Number, nullable=False),
    Column("endpoint_no", Number, nullable=False),
    Column("function_no", Number, nullable=False),
    Column("state", String(10), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    # how often it was sent to be run; a call given back unstarted does not count
    Column("attempt", SmallInteger, nullable=False),
    # how often it failed with an exception and was run again because the caller asked for it
    Column("retried", SmallInteger, nullable=False, server_default="0"),
    Column("blob_no", Number, nullable=False),
    Column("blob_offset", Integer, nullable=False),
    Column("blob_size", Integer, nullable=False),
    Column("created", Float, nullable=False),
    # not started by then: expired
    Column("expires", Float),
    Column("bundle_no", Number),
    Column("dispatched", Float),
    Column("node_no", Number),
    Column("started", Float),
    Column("wall", Float),
    Column("finished", Float),
    # number in its group, given in the transaction that ends the task
    Column("completion", BigInteger),
    Column("code", String(32)),
    Column("message", Text),
    # JSON resource record
    Column("usage", Text),
    Column("result_blob_no", Number),
    Column("result_offset", Integer),
    Column("result_size", Integer),
)


def _partial(name: str, where: str, *columns: object) -> None:
    Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))  # type: ignore[arg-type]


_t = tasks.c
_partial("ix_tasks_queue", "state = 'queued'", _t.endpoint_no, _t.user_no, _t.priority.desc(), _t.no)
_partial("ix_tasks_bundle", "bundle_no IS NOT NULL", _t.bundle_no)
_partial("ix_tasks_expiry", "expires IS NOT NULL AND finished IS NULL", _t.expires)
_partial("ix_tasks_finished", "finished IS NOT NULL", _t.finished)
_partial("ix_tasks_completion", "completion IS NOT NULL", _t.group_no, _t.completion)
Index("ix_tasks_group", _t.group_no, _t.no)
Index("ix_tasks_user", _t.user_no, _t.no)

# unfinished calls of each user on each endpoint: for taking turns and for back-pressure
loads = Table(
    "loads",
    metadata,
    Column("endpoint_no", Number, primary_key=True),
    Column("user_no", Number, primary_key=True),
    Column("live", Integer, nullable=False),
)
Index("ix_loads_user", loads.c.user_no)

# how long the calls of a function run on an endpoint: moving average, seconds
estimates = Table(
    "estimates",
    metadata,
    Column("endpoint_no", Number, primary_key=True),
    Column("function_no", Number, primary_key=True),
    Column("seconds", Float, nullable=False),
    Column("updated", Float, nullable=False),
)

# answers of submissions, kept a day, so that a repeated request gets the first one's answer
idempotency = Table(
    "idempotency",
    metadata,
    Column("user_no", Number, primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("answer", Text, nullable=False),
    Column("created", Float, nullable=False),
)
Index("ix_idempotency_created", idempotency.c.created)

# where an elastic endpoint's blocks run, and by what rules
sites = Table(
    "sites",
    metadata,
    _no(),
    _ref("endpoint_no", "endpoints", nullable=False, unique=True),
    # JSON of federation.provision.sites.SiteSettings and of Policy
    Column("settings", Text, nullable=False),
    Column("policy", Text, nullable=False),
    # JSON of federation.provision.model.Memory
    Column("memory", Text, nullable=False, server_default="{}"),
    # new | ok | unreachable | paused | removing, and a sentence about it
    Column("status", String(16), nullable=False),
    Column("message", Text, nullable=False, server_default=""),
    # the last decision, in words
    Column("decision", Text, nullable=False, server_default=""),
    # when the scheduler last answered, and how long it took, seconds
    Column("looked", Float),
    Column("took", Float),
    Column("created", Float, nullable=False),
)

# one batch job each; written before the scheduler hears of it
blocks = Table(
    "blocks",
    metadata,
    _no(),
    _ref("endpoint_no", "endpoints", nullable=False),
    Column("name", String(32), nullable=False, unique=True),
    Column("job_id", String(128)),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("nodes", Integer, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("walltime", Float, nullable=False),
    # JSON list of host names
    Column("hosts", Text, nullable=False, server_default="[]"),
    Column("submitted", Float, nullable=False),
    Column("started", Float),
    Column("joined", Float),
    Column("drained", Float),
    Column("cancelled", Float),
    Column("ended", Float),
    Column("workers", Integer, nullable=False, server_default="0"),
    Column("busy", Integer, nullable=False, server_default="0"),
    Column("idle_since", Float),
    Column("silent_since", Float),
    # since when the scheduler does not know it
    Column("missing_since", Float),
    # slot-seconds with and without work, up to ``counted``
    Column("busy_seconds", Float, nullable=False, server_default="0"),
    Column("idle_seconds", Float, nullable=False, server_default="0"),
    Column("counted", Float),
    # the end of a failed job's output
    Column("tail", Text, nullable=False, server_default=""),
)
Index("ix_blocks_endpoint", blocks.c.endpoint_no, blocks.c.ended)
