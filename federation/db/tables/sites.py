"""Tables of elastic endpoints: their sites and blocks."""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, String, Table, Text

from .base import metadata, no, ref

# where an elastic endpoint's blocks run, and under which policy
sites = Table(
    "sites",
    metadata,
    no(),
    ref("endpoint_no", "endpoints", nullable=False, unique=True),
    # JSON of federation.provision.records.sites.SiteSettings and of Policy
    Column("settings", Text, nullable=False),
    Column("policy", Text, nullable=False),
    # JSON of federation.provision.planning.model.PlannerState
    Column("memory", Text, nullable=False, server_default="{}"),
    # new | ok | unreachable | paused | removing, and a message about it
    Column("status", String(16), nullable=False),
    Column("message", Text, nullable=False, server_default=""),
    # the last decision, as a sentence
    Column("decision", Text, nullable=False, server_default=""),
    # JSON list of [time, sentence]: the last decisions, newest last
    Column("history", Text, nullable=False, server_default="[]"),
    # JSON of how workers reach the broker: {"way", "address", "since", "candidates"}
    Column("network", Text, nullable=False, server_default="{}"),
    # when the scheduler last answered, and how long it took, seconds
    Column("looked", Float),
    Column("took", Float),
    Column("created", Float, nullable=False),
    # node-hours of blocks whose rows are deleted; they still count in the budget
    Column("forgotten_hours", Float, nullable=False, server_default="0"),
)

# one row per batch job; written before the job is submitted
blocks = Table(
    "blocks",
    metadata,
    no(),
    ref("endpoint_no", "endpoints", nullable=False),
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
    # since when the scheduler does not list the job
    Column("missing_since", Float),
    # slot-seconds with and without work, up to ``counted``
    Column("busy_seconds", Float, nullable=False, server_default="0"),
    Column("idle_seconds", Float, nullable=False, server_default="0"),
    Column("counted", Float),
    # the end of a failed job's output
    Column("tail", Text, nullable=False, server_default=""),
)
Index("ix_blocks_endpoint", blocks.c.endpoint_no, blocks.c.ended)
Index("ix_blocks_ended", blocks.c.ended)
