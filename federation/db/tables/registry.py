"""Tables of the registry: users, tokens, functions, endpoints and their nodes."""

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
    text,
)

from .base import Number, metadata, no, ref

users = Table(
    "users",
    metadata,
    no(),
    Column("id", String(36), nullable=False, unique=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("created", Float, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    no(),
    ref("user_no", "users", nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("label", String(128), nullable=False, server_default=""),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("revoked", Float),
    # what the token may be used for, words separated by spaces; NULL: everything that its user may do
    Column("scope", String(255)),
    # a token of a call: its task, and the bundle in which it runs; valid only while it does
    Column("task_id", String(36)),
    Column("bundle_id", String(36)),
)
Index("ix_tokens_user_no", tokens.c.user_no)
_of_calls = text("task_id IS NOT NULL")
Index("ix_tokens_calls", tokens.c.expires, sqlite_where=_of_calls, postgresql_where=_of_calls)

functions = Table(
    "functions",
    metadata,
    no(),
    Column("id", String(36), nullable=False, unique=True),
    ref("user_no", "users", nullable=False),
    Column("name", String(256), nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("source", Text),
    Column("sha256", String(64), nullable=False),
    Column("size", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created", Float, nullable=False),
    Column("deleted", Float),
    # when a call of it was last submitted, as far as its submissions were deleted since
    Column("used", Float),
    # JSON of the environment and the limits in the header of its body, for display
    Column("environment", Text),
    Column("limits", Text),
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
    no(),
    Column("id", String(36), nullable=False, unique=True),
    ref("user_no", "users", nullable=False),
    Column("name", String(64), nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("metadata", Text, nullable=False, server_default="{}", key="meta"),
    Column("public_key", LargeBinary, nullable=False),
    # SHA-256 of the password of its broker account, in the form that Redis ACLs use
    Column("broker_sha256", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("deleted", Float),
    # JSON {"since", "until", "reason"} of the last suspension of its broker account
    Column("suspended", Text),
    # the user served last; persistent, so that turns continue after a restart
    Column("last_user_no", Number),
    # bundles of small groups that may be sent beyond the window
    Column("credit", SmallInteger, nullable=False, server_default="0"),
    # random number of the epoch of its keys in the broker; a loss of these keys begins another one
    Column("epoch", BigInteger, nullable=False, server_default="0"),
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
    no(),
    ref("endpoint_no", "endpoints", nullable=False),
    Column("name", String(128), nullable=False),
    Column("instance", String(36), nullable=False),
    # grows with each run of the node, and with each change of its description in a run; 0: unknown
    Column("incarnation", BigInteger, nullable=False, server_default="0"),
    Column("version", BigInteger, nullable=False, server_default="0"),
    Column("slots", Integer, nullable=False),
    Column("busy", Integer, nullable=False),
    Column("facts", Text, nullable=False, server_default="{}"),
    # JSON {"queue", "load", "clock_ahead"} of the last beat that was recorded
    Column("vitals", Text, nullable=False, server_default="{}"),
    # JSON of installed packages, version by name
    Column("packages", Text, nullable=False, server_default="{}"),
    # when this instance was first seen, and about when it was seen last, by the server's clock
    Column("since", Float, nullable=False),
    Column("seen", Float, nullable=False),
    # 1 while it is considered live; 0 after it shut down or was lost
    Column("live", SmallInteger, nullable=False),
    # when an instance of this node last ended without having reported everything; 0.0: never
    Column("lost", Float, nullable=False, server_default="0"),
)
Index("uq_nodes_endpoint_name", nodes.c.endpoint_no, nodes.c.name, unique=True)
Index("ix_nodes_slots", nodes.c.endpoint_no, nodes.c.live, nodes.c.slots)
Index("ix_nodes_live", nodes.c.seen, sqlite_where=text("live = 1"), postgresql_where=text("live = 1"))
Index("ix_nodes_dead", nodes.c.seen, sqlite_where=text("live = 0"), postgresql_where=text("live = 0"))
