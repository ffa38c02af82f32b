"""Tables of the ledger: groups, submissions, bundles, tasks and what belongs to tasks."""

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
    # all tasks ever submitted, and the last completion number; the difference is the unfinished tasks
    Column("size", BigInteger, nullable=False, server_default="0"),
    Column("completions", BigInteger, nullable=False, server_default="0"),
    # id of the task whose call has created the group; NULL: a user's program has
    Column("parent", String(36)),
)

partial("ix_groups_parent", "parent IS NOT NULL", groups.c.parent)

submissions = Table(
    "submissions",
    metadata,
    no(),
    ref("group_no", "groups", nullable=False),
    ref("user_no", "users", nullable=False),
    ref("endpoint_no", "endpoints", nullable=False),
    ref("function_no", "functions", nullable=False),
    # JSON of federation.db.options.Options
    Column("options", Text, nullable=False, server_default="{}"),
    Column("created", Float, nullable=False),
)
# lists of tasks are read through their submissions, newest first
_s = submissions.c
Index("ix_submissions_group", _s.group_no, _s.created, _s.no)
Index("ix_submissions_user", _s.user_no, _s.created, _s.no)
Index("ix_submissions_function", _s.function_no, _s.created, _s.no)
Index("ix_submissions_endpoint", _s.endpoint_no, _s.created, _s.no)

blobs = Table(
    "blobs",
    metadata,
    no(),
    Column("data", LargeBinary, nullable=False),
    # tasks that refer to this row; it is deleted with the last of them
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
    # calls not yet ended or returned; the row is deleted at 0
    Column("open", Integer, nullable=False),
    # slots that it occupies at the endpoint
    Column("cores", Integer, nullable=False, server_default="1"),
    Column("sent", Float, nullable=False),
    # the epoch of its endpoint in which it was recorded; it can be pushed in this one only
    Column("epoch", BigInteger, nullable=False, server_default="0"),
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
    # how often it was sent; calls returned without being started do not count
    Column("attempt", SmallInteger, nullable=False),
    # how often it raised an exception and was run again because of its option 'retries'
    Column("retried", SmallInteger, nullable=False, server_default="0"),
    # how often it was interrupted from outside: its worker was stopped or its batch job ended
    Column("interrupted", SmallInteger, nullable=False, server_default="0"),
    Column("blob_no", Number, nullable=False),
    Column("blob_offset", Integer, nullable=False),
    Column("blob_size", Integer, nullable=False),
    Column("created", Float, nullable=False),
    # the task expires if it has not started by then
    Column("expires", Float),
    # slots that it occupies on one node
    Column("cores", SmallInteger, nullable=False, server_default="1"),
    Column("bundle_no", Number),
    Column("dispatched", Float),
    Column("node_no", Number),
    Column("started", Float),
    Column("wall", Float),
    Column("finished", Float),
    # completion number in its group, assigned in the transaction that ends the task
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
partial(
    "ix_tasks_queue",
    "state = 'queued'",
    *(_t.endpoint_no, _t.user_no, _t.priority.desc(), _t.group_no, _t.no),
)
partial("ix_tasks_wide", "state = 'queued' AND cores > 1", _t.endpoint_no)
partial("ix_tasks_bundle", "bundle_no IS NOT NULL", _t.bundle_no)
partial("ix_tasks_expiry", "expires IS NOT NULL AND finished IS NULL", _t.expires)
partial("ix_tasks_finished", "finished IS NOT NULL", _t.finished)
partial("ix_tasks_completion", "completion IS NOT NULL", _t.group_no, _t.completion)
Index("ix_tasks_group", _t.group_no, _t.no)
Index("ix_tasks_submission", _t.submission_no, _t.no)
# final states that are rare among a user's tasks, in the order of lists
partial(
    "ix_tasks_unsuccessful",
    "state IN ('failed', 'cancelled', 'expired')",
    *(_t.user_no, _t.state, _t.created, _t.submission_no, _t.no),
)

# running totals of each user on each endpoint, for taking turns, back-pressure, demand and status
loads = Table(
    "loads",
    metadata,
    Column("endpoint_no", Number, primary_key=True),
    Column("user_no", Number, primary_key=True),
    # unfinished tasks; those of them in bundles; those that are known to run
    Column("live", Integer, nullable=False),
    Column("sent", Integer, nullable=False, server_default="0"),
    Column("running", Integer, nullable=False, server_default="0"),
    # slots that the open bundles occupy
    Column("occupied", Integer, nullable=False, server_default="0"),
    # the group whose turn it was last, which may be gone, and the highest priority sent in the last refill
    Column("last_group_no", Number, nullable=False, server_default="0"),
    Column("last_priority", SmallInteger, nullable=False, server_default="0"),
)
Index("ix_loads_user", loads.c.user_no)

# calls accepted while another transaction had the lock of their endpoint, not yet in ``loads`` and ``groups``
arrivals = Table(
    "arrivals",
    metadata,
    no(),
    Column("endpoint_no", Number, nullable=False),
    Column("user_no", Number, nullable=False),
    Column("group_no", Number, nullable=False),
    Column("calls", Integer, nullable=False),
    Column("priority", SmallInteger, nullable=False, server_default="0"),
)
Index("ix_arrivals_endpoint", arrivals.c.endpoint_no)
Index("ix_arrivals_user", arrivals.c.user_no)
Index("ix_arrivals_group", arrivals.c.group_no)

# run time of a function's calls on an endpoint: moving average, seconds
estimates = Table(
    "estimates",
    metadata,
    Column("endpoint_no", Number, primary_key=True),
    Column("function_no", Number, primary_key=True),
    Column("seconds", Float, nullable=False),
    Column("updated", Float, nullable=False),
)
Index("ix_estimates_updated", estimates.c.updated)

# standard output and error of tasks that wrote any; deleted with the task
logs = Table(
    "logs",
    metadata,
    Column("task_no", Number, primary_key=True, autoincrement=False),
    # the attempt that wrote it; a later attempt replaces the output
    Column("attempt", SmallInteger, nullable=False),
    # the first bytes, the last bytes, and how many were written in total
    Column("head", LargeBinary, nullable=False),
    Column("tail", LargeBinary, nullable=False),
    Column("total", BigInteger, nullable=False),
)

# tasks that yield items: the run whose items are stored, identified by its bundle; deleted with the task
streams = Table(
    "streams",
    metadata,
    Column("task_no", Number, primary_key=True, autoincrement=False),
    # starts at 1; incremented each time another run's items replace the stored ones
    Column("run", SmallInteger, nullable=False),
    Column("bundle_id", String(36), nullable=False),
    # total bytes of the stored items
    Column("size", BigInteger, nullable=False),
    # total number of items, known once the call has ended
    Column("total", Integer),
)

# yielded items, serialized, several per row as they arrived
items = Table(
    "items",
    metadata,
    Column("task_no", Number, primary_key=True, autoincrement=False),
    # number of the first item in this row
    Column("first", Integer, primary_key=True, autoincrement=False),
    # JSON list of the size of each item; ``data`` is their concatenation
    Column("sizes", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

# resource use of recent calls of each function: a sample, in places that are overwritten at random
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

# responses to submissions, stored for a day, so that a repeated request gets the same response; of the ids,
# which count up, only the first one is stored
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

# one row per epoch, the last one is current; a ledger that was rolled back gets a new one
epochs = Table(
    "epochs",
    metadata,
    no(),
    Column("id", String(36), nullable=False, unique=True),
    # grows while the ledger changes; a smaller value than the one remembered elsewhere shows a rollback
    Column("mark", BigInteger, nullable=False),
    Column("created", Float, nullable=False),
)
