"""Elastic endpoints and their blocks."""

from __future__ import annotations

import dataclasses

from marshmallow import Schema, fields, validate

from federation.provision.planning.policy import Policy as Rules

from .common import TIME
from .fields import Object, Text

#: One optional number per rule; ``provision.planning.policy`` says what each means and allows.
Policy = Schema.from_dict(
    {
        rule.name: fields.Integer(strict=True) if isinstance(rule.default, int) else fields.Float()
        for rule in dataclasses.fields(Rules)
    },
    name="Policy",
)


class SiteIn(Schema):
    """A site and the rules for using it."""

    name = fields.String(required=True, validate=validate.Regexp(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z"))
    site = Object(
        required=True,
        metadata={
            "description": "`address` (ssh://user@host:port), `scheduler`, and what else the manual names."
        },
    )
    policy = fields.Nested(Policy)
    confirm = fields.Boolean(metadata={"description": "Pin the host keys that the site shows now."})
    dry_run = fields.Boolean(metadata={"description": "Show the job script and make nothing."})


class HostKey(Schema):
    """A host key and its fingerprint, as `ssh-keygen -l` shows it."""

    key = fields.String(required=True)
    fingerprint = fields.String(required=True)


class SiteAnswer(Schema):
    """What became of it, or what to do next."""

    id = fields.String()
    name = fields.String()
    host_keys = fields.List(fields.Nested(HostKey))
    authorized_keys = fields.String(metadata={"description": "Line for the account's authorized_keys."})
    next = fields.String()
    script = fields.String(metadata={"description": "The job script of a dry run."})


class SiteOut(Schema):
    """An elastic endpoint in short."""

    id = fields.String(required=True)
    name = fields.String(required=True)
    address = fields.String(required=True)
    scheduler = fields.String(required=True)
    status = fields.String(
        required=True, metadata={"description": "new, ok, unreachable, paused or removing"}
    )
    message = fields.String(required=True)
    decision = fields.String(required=True)
    looked = fields.Float(required=True, allow_none=True, metadata={"description": TIME})


class Sites(Schema):
    """All elastic endpoints of a user, deleted ones until their sites are clean."""

    items = fields.List(fields.Nested(SiteOut), required=True)


class Network(Schema):
    """How an endpoint's workers reach the broker."""

    wanted = fields.String(required=True, metadata={"description": "auto, direct, relay or tunnel"})
    way = fields.String(
        required=True,
        metadata={"description": "What workers have last come by: direct, relay or tunnel; empty: not known"},
    )
    address = fields.String(required=True, metadata={"description": "Where they reach it by that way."})
    since = fields.Float(required=True, allow_none=True, metadata={"description": TIME})


class Sentence(Schema):
    """A decision of the provisioner."""

    time = fields.Float(required=True, metadata={"description": TIME})
    decision = fields.String(required=True)


class Block(Schema):
    """One batch job."""

    name = fields.String(required=True)
    job_id = fields.String(required=True, allow_none=True)
    state = fields.String(required=True)
    reason = fields.String(required=True)
    hosts = fields.List(fields.String(), required=True)
    nodes = fields.Integer(required=True)
    slots = fields.Integer(required=True)
    workers = fields.Integer(required=True)
    busy = fields.Integer(required=True)
    walltime = fields.Float(required=True)
    submitted = fields.Float(required=True, metadata={"description": TIME})
    started = fields.Float(required=True, allow_none=True, metadata={"description": TIME})
    joined = fields.Float(required=True, allow_none=True, metadata={"description": TIME})
    ended = fields.Float(required=True, allow_none=True, metadata={"description": TIME})
    queue_wait = fields.Float(required=True, allow_none=True)
    age = fields.Float(required=True, metadata={"description": "Seconds since its submission, to its end."})
    busy_slot_seconds = fields.Float(required=True)
    idle_slot_seconds = fields.Float(required=True)
    node_hours = fields.Float(
        required=True, allow_none=True, metadata={"description": "Used up to now; null before its start."}
    )
    tail = fields.String(required=True, metadata={"description": "The end of a failed job's output."})


class Elastic(Schema):
    """An elastic endpoint as its provisioner sees it."""

    status = fields.String(required=True, metadata={"description": "new, ok, unreachable or paused"})
    message = fields.String(required=True)
    decision = fields.String(required=True, metadata={"description": "The last decision in words."})
    history = fields.List(
        fields.Nested(Sentence), required=True, metadata={"description": "The last decisions, newest first."}
    )
    network = fields.Nested(Network, required=True)
    looked = fields.Float(required=True, allow_none=True, metadata={"description": TIME})
    policy = fields.Nested(Policy, required=True)
    node_hours = fields.Dict(keys=fields.String(), values=fields.Float(), required=True)
    bad_nodes = fields.Dict(keys=fields.String(), values=fields.Float(), required=True)
    blocks = fields.List(fields.Nested(Block), required=True)


class Pause(Schema):
    """Why nothing shall be submitted."""

    reason = Text(most=300)


class Paused(Schema):
    """Why nothing is submitted; empty when it is."""

    paused = fields.String(required=True)
