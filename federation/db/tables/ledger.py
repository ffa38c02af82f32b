"""What was accepted, where it is, how it ended."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    Text,
)

from .base import Number, metadata, no, partial, ref

groups = Table(
    "groups",
    metadata,
    no(),
    Column("id", String(36), nullable=False, unique=True),
    ref("user_no", "users", nullable=False),
    Column("created", Float, nullable=False),
    # tasks that ever joined, and the completion number given last: they differ by the unfinished tasks
    Column("size", BigInteger, nullable=False, server_default="0"),
    Column("completions", BigInteger, nullable=False, server_default="0"),
)

submissions = Table(
    "submissions",
    metadata,
    no(),
    ref("group_no", "groups", nullable=False),
    ref("user_no", "users", nullable=False),
    ref("endpoint_no", "endpoints", nullable=False),
    ref("function_no", "functions", nullable=False),
    # JSON of federation.ledger.options.Options
    Column("options", Text, nullable=False, server_default="{}"),
    Column("created", Float, nullable=False),
)
Index("ix_submissions_group", submissions.c.group_no)

blobs = Table(
    "blobs",
    metadata,
    no(),
    Column("data", LargeBinary, nullable=False),
    # tasks that point here; the row goes with the last of them
    Column("refs", Integer, nullable=False),
)

bundles = Table(
    "bundles",
    metadata,
    no(),
    Column("id", String(36), nullable=False, unique=True),
    ref("endpoint_no", "endpoints", nullable=False),
    ref("function_no", "functions", nullable=False),
    Column("size", Integer, nullable=False),
    # calls not yet ended or given back; the row is deleted at 0
    Column("open", Integer, nullable=False),
    # slots that it occupies at the endpoint
    Column("cores", Integer, nullable=False, server_default="1"),
    Column("sent", Float, nullable=False),
    # the node that said it holds the bundle, and when
    ref("node_no", "nodes"),
    Column("held", Float),
)
Index("ix_bundles_endpoint", bundles.c.endpoint_no)

tasks = Table(
    "tasks",
    metadata,
    no(),
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
    # how often it was lost by no fault of its own: its worker was stopped, its batch job ended
    Column("interrupted", SmallInteger, nullable=False, server_default="0"),
    Column("blob_no", Number, nullable=False),
    Column("blob_offset", Integer, nullable=False),
    Column("blob_size", Integer, nullable=False),
    Column("created", Float, nullable=False),
    # not started by then: expired
    Column("expires", Float),
    # slots of one node that it occupies
    Column("cores", SmallInteger, nullable=False, server_default="1"),
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

_t = tasks.c
partial("ix_tasks_queue", "state = 'queued'", _t.endpoint_no, _t.user_no, _t.priority.desc(), _t.no)
partial("ix_tasks_wide", "state = 'queued' AND cores > 1", _t.endpoint_no)
partial("ix_tasks_bundle", "bundle_no IS NOT NULL", _t.bundle_no)
partial("ix_tasks_expiry", "expires IS NOT NULL AND finished IS NULL", _t.expires)
partial("ix_tasks_finished", "finished IS NOT NULL", _t.finished)
partial("ix_tasks_completion", "completion IS NOT NULL", _t.group_no, _t.completion)
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

# what a task wrote to standard output and error, for those that wrote anything; goes with the task
logs = Table(
    "logs",
    metadata,
    Column("task_no", Number, primary_key=True, autoincrement=False),
    # the attempt that wrote it; a later one's replaces it
    Column("attempt", SmallInteger, nullable=False),
    # the first bytes, the last ones, and how many were written
    Column("head", LargeBinary, nullable=False),
    Column("tail", LargeBinary, nullable=False),
    Column("total", BigInteger, nullable=False),
)

# calls that yield: the start of the task whose items are kept, told from others by its bundle; goes with
# the task
streams = Table(
    "streams",
    metadata,
    Column("task_no", Number, primary_key=True, autoincrement=False),
    # 1, and one more each time that another start's items took the place of these
    Column("run", SmallInteger, nullable=False),
    Column("bundle_id", String(36), nullable=False),
    # bytes of the items that are kept
    Column("size", BigInteger, nullable=False),
    # how many items there were in all, once the call has ended
    Column("total", Integer),
)

# what they yielded: serialized items as they came, some at once
items = Table(
    "items",
    metadata,
    Column("task_no", Number, primary_key=True, autoincrement=False),
    # number of the first one
    Column("first", Integer, primary_key=True, autoincrement=False),
    # JSON list of the bytes of each; ``data`` is one after another
    Column("sizes", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

# what some of the newest calls of each function used: a sample, in places that are overwritten at random
samples = Table(
    "samples",
    metadata,
    Column("function_no", Number, primary_key=True, autoincrement=False),
    Column("place", SmallInteger, primary_key=True, autoincrement=False),
    Column("finished", Float, nullable=False),
    Column("queued", Float),
    Column("wall", Float, nullable=False),
    Column("cpu", Float),
    Column("user", Float),
    Column("system", Float),
    Column("max_rss", BigInteger),
    Column("read", BigInteger),
    Column("written", BigInteger),
    Column("output", BigInteger),
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
