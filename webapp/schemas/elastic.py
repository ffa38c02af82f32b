"""Elastic endpoints and their blocks."""

from __future__ import annotations

import dataclasses

from marshmallow import Schema, fields, validate

from federation.provision.planning.policy import Policy as Rules

from .common import about, time_field
from .fields import Object, StrictBoolean, Text
from .policy import DESCRIPTIONS

#: One optional number per rule; ``provision.planning.policy`` defines and checks them.
Policy = Schema.from_dict(
    {
        rule.name: fields.Integer(strict=True) if isinstance(rule.default, int) else fields.Float()
        for rule in dataclasses.fields(Rules)
    },
    name="Policy",
)
for _name, _field in Policy._declared_fields.items():
    _field.metadata = about(DESCRIPTIONS[_name])


class SiteIn(Schema):
    """A site and the policy for using it."""

    name = fields.String(
        required=True,
        validate=validate.Regexp(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z"),
        metadata=about("Name of the new endpoint: 1 to 63 letters, digits and `_.-`."),
    )
    site = Object(
        required=True,
        metadata=about(
            "Settings of the site: `address` (ssh://user@host:port), `scheduler`, and the optional settings "
            "of the manual; at most 16 KiB."
        ),
    )
    policy = fields.Nested(Policy, metadata=about("Policy of the endpoint; omitted values have defaults."))
    confirm = StrictBoolean(metadata=about("Pin the host keys that the site presents now. Default: false."))
    dry_run = StrictBoolean(
        metadata=about("Return the job script and create nothing. Default: false."),
    )


class HostKey(Schema):
    """A host key and its fingerprint, as printed by `ssh-keygen -l`."""

    key = fields.String(required=True, metadata=about("Type and base64 of the key, as in known_hosts."))
    fingerprint = fields.String(required=True, metadata=about("Type and SHA-256 fingerprint of the key."))


class SiteResponse(Schema):
    """The created endpoint, the host keys to confirm, or the job script of a dry run."""

    id = fields.String(metadata=about("Id of the created endpoint."))
    name = fields.String(metadata=about("Name of the created endpoint."))
    host_keys = fields.List(fields.Nested(HostKey), metadata=about("Host keys of the site."))
    authorized_keys = fields.String(
        metadata=about("Line to add to `authorized_keys` of the account on the site.")
    )
    next = fields.String(metadata=about("What to do next if nothing was created."))
    script = fields.String(metadata=about("Job script of a dry run."))


class ElasticEndpointSummary(Schema):
    """Summary of an elastic endpoint."""

    id = fields.String(required=True, metadata=about("Id of the endpoint."))
    name = fields.String(required=True, metadata=about("Name of the endpoint."))
    address = fields.String(required=True, metadata=about("SSH address of the site, or `local`."))
    scheduler = fields.String(required=True, metadata=about("Batch system of the site."))
    status = fields.String(
        required=True, metadata=about("`new`, `ok`, `unreachable`, `paused` or `removing`.")
    )
    message = fields.String(required=True, metadata=about("Explanation of the status; may be empty."))
    decision = fields.String(required=True, metadata=about("Last decision of the provisioner."))
    looked = time_field("When the scheduler last answered", null="never")


class Sites(Schema):
    """All elastic endpoints of a user."""

    items = fields.List(
        fields.Nested(ElasticEndpointSummary),
        required=True,
        metadata=about("Elastic endpoints, including deleted ones until their sites are cleaned up."),
    )


class Network(Schema):
    """How an endpoint's workers reach the broker."""

    wanted = fields.String(
        required=True, metadata=about("Setting of the site: `auto`, `direct`, `relay` or `tunnel`.")
    )
    way = fields.String(
        required=True,
        metadata=about("Route that workers last used: `direct`, `relay` or `tunnel`; empty: unknown."),
    )
    address = fields.String(required=True, metadata=about("`host:port` that workers connect to."))
    since = time_field("When workers first used this route", null="unknown")


class PastDecision(Schema):
    """A past decision of the provisioner."""

    time = time_field("When it was made")
    decision = fields.String(required=True, metadata=about("Actions and their reasons."))


class Block(Schema):
    """One batch job."""

    name = fields.String(required=True, metadata=about("Name of the block and of its job."))
    job_id = fields.String(
        required=True, allow_none=True, metadata=about("Id of the job in the batch system; null: unknown.")
    )
    state = fields.String(
        required=True,
        metadata=about(
            "`submitting`, `pending`, `held`, `running`, `draining`, or a final state: `completed`, "
            "`failed`, `timeout`, `preempted`, `node_fail`, `out_of_memory`, `cancelled`, `lost`."
        ),
    )
    reason = fields.String(
        required=True, metadata=about("Reason for the state, from the batch system; may be empty.")
    )
    hosts = fields.List(
        fields.String(), required=True, metadata=about("Hosts that the block runs or ran on.")
    )
    nodes = fields.Integer(required=True, metadata=about("Number of nodes."))
    slots = fields.Integer(required=True, metadata=about("Calls that run concurrently on all its nodes."))
    workers = fields.Integer(required=True, metadata=about("Live workers; each node has one."))
    busy = fields.Integer(required=True, metadata=about("Slots that run calls now."))
    walltime = fields.Float(required=True, metadata=about("Time limit of the job in seconds."))
    submitted = time_field("When the job was submitted")
    started = time_field("When the job started", null="not started")
    joined = time_field("When the first worker reported", null="none has reported")
    ended = time_field("When the job ended", null="it has not ended")
    queue_wait = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("Seconds from submission to start; null: not started."),
    )
    age = fields.Float(required=True, metadata=about("Seconds from submission to the end, or to now."))
    busy_slot_seconds = fields.Float(
        required=True, metadata=about("Sum over all slots of the seconds in which they ran calls.")
    )
    idle_slot_seconds = fields.Float(
        required=True, metadata=about("Sum over all slots of the seconds in which they ran nothing.")
    )
    node_hours = fields.Float(
        required=True, allow_none=True, metadata=about("Node-hours used so far; null: not started.")
    )
    tail = fields.String(
        required=True, metadata=about("Last output of a job that ended without a worker, at most 4 KiB.")
    )


class ElasticEndpoint(Schema):
    """State of an elastic endpoint."""

    status = fields.String(
        required=True, metadata=about("`new`, `ok`, `unreachable`, `paused` or `removing`.")
    )
    message = fields.String(required=True, metadata=about("Explanation of the status; may be empty."))
    decision = fields.String(required=True, metadata=about("Last decision of the provisioner."))
    history = fields.List(
        fields.Nested(PastDecision), required=True, metadata=about("The last 100 decisions, newest first.")
    )
    network = fields.Nested(Network, required=True, metadata=about("How workers reach the broker."))
    looked = time_field("When the scheduler last answered", null="never")
    policy = fields.Nested(Policy, required=True, metadata=about("Policy of the endpoint."))
    node_hours = fields.Dict(
        keys=fields.String(),
        values=fields.Float(),
        required=True,
        metadata=about(
            "Node-hours of ended blocks in the last 24 hours (`day`) and in total (`total`), and the most "
            "that active blocks may use (`reserved`)."
        ),
    )
    bad_nodes = fields.Dict(
        keys=fields.String(),
        values=fields.Float(),
        required=True,
        metadata=about("Nodes that are avoided after failures; until when, in seconds since 1970-01-01 UTC."),
    )
    blocks = fields.List(
        fields.Nested(Block),
        required=True,
        metadata=about("All active blocks, then the 50 newest ended ones; newest first."),
    )


class Pause(Schema):
    """Why submissions are paused."""

    reason = Text(
        max_length=300, metadata=about("Reason to show as the status message; at most 300 characters.")
    )


class Paused(Schema):
    """Whether submissions are paused."""

    paused = fields.String(required=True, metadata=about("Reason of the pause; empty: not paused."))
