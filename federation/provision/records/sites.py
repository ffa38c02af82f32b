"""Elastic endpoints in the registry: where their blocks run, and by which rules."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from msgspec import Meta
from sqlalchemy import Connection, Row, delete, insert, select, update

from umbel.protocol.errors import BadRequest, Conflict, NotFound
from umbel.system.settings import InvalidSettings, Source, read

from ...context import Federation
from ...db.tables import blocks, endpoints, sites
from ...registry import endpoints as registry
from ...registry.users import User
from ..planning import failures
from ..planning.model import PlannerState
from ..planning.policy import Policy

_PATH = re.compile(r"[A-Za-z0-9_.~/+-]{1,200}\Z")
_HOST = re.compile(r"(?:[A-Za-z0-9:][A-Za-z0-9.:-]{0,252})?\Z")
#: Decisions that are kept of an endpoint.
HISTORY = 100


@dataclass(frozen=True)
class SiteSettings:
    """Where and how an endpoint's blocks are started. Raises ValueError for settings that cannot be used.

    ``address``: ``ssh://user@host:port``, or ``local`` for the machine of the service. ``host_keys``: the
    confirmed keys of the jump hosts in their order, then of the machine. ``key_file``: a key of the account
    that runs the provisioner; ``agent``: use that account's agent; with neither, the service makes a key.
    ``network``: how nodes reach the broker, see ``federation.provision.site.network``. ``tunnel_bind``: the
    address on the site at which the tunnel listens. ``relay_listen``: the addresses at which the relay
    listens; empty: the login node's private addresses.
    """

    address: str
    scheduler: Literal["slurm", "gridengine", "pbs", "lsf", "htcondor", "processes", "hosts"]
    host_keys: tuple[str, ...] = ()
    jumps: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    key_file: str = ""
    agent: bool = False
    folder: str = ".umbel"
    python: str = "python3"
    wheelhouse: str = ""
    directives: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()
    network: Literal["auto", "direct", "relay", "tunnel"] = "auto"
    tunnel_bind: str = "127.0.0.1"
    tunnel_port: Annotated[int, Meta(ge=0, le=65534)] = 0
    relay_listen: tuple[str, ...] = ()
    #: Minimum time between two status commands, seconds; it grows if the scheduler is slow.
    interval: float = 30.0
    #: A worker shuts down when the broker has been unreachable for this long, seconds.
    broker_gone: float = 600.0

    def __post_init__(self) -> None:
        for name, addresses in (("tunnel_bind", [self.tunnel_bind]), ("relay_listen", self.relay_listen)):
            for address in addresses:
                if not _HOST.match(address):
                    raise ValueError(f"setting '{name}' must be a host name or address, got {address[:40]!r}")
        for name in ("folder", "python"):
            value = getattr(self, name)
            if not _PATH.match(value) or ".." in value or value.startswith("-"):
                raise ValueError(
                    f"setting '{name}' must be a path of letters, digits and _.~/+- without '..', "
                    f"got {value[:40]!r}"
                )
        if self.scheduler == "hosts" and not self.hosts:
            raise ValueError("setting 'hosts' must list the hosts for scheduler 'hosts', got an empty list")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SiteSettings:
        """Build settings. Raises BadRequest for unknown settings and values that cannot be used."""
        try:
            return read(cls, Source("site", values, syntax="json"))
        except InvalidSettings as error:
            raise BadRequest(str(error)) from None

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Site:
    """One elastic endpoint with its site, as the provisioner uses it."""

    endpoint_no: int
    endpoint_id: str
    endpoint_name: str
    settings: SiteSettings
    policy: Policy
    planner_state: PlannerState
    status: str
    message: str
    decision: str
    looked: float | None
    #: how workers reach the broker: {"way", "address", "since"}; {} if unknown
    network: Mapping[str, Any] = field(default_factory=dict)
    #: the last decisions, newest last: (seconds since 1970, sentence)
    history: tuple[tuple[float, str], ...] = ()
    #: when its endpoint was deleted
    deleted: float | None = None

    @property
    def removing(self) -> bool:
        """Whether the site must be cleaned up, because its endpoint is deleted."""
        return self.deleted is not None

    @property
    def route(self) -> str:
        """The route that workers last used, as ``name=host:port``; "" if unknown."""
        return f"{self.network['way']}={self.network['address']}" if self.network else ""


_COLUMNS = (
    endpoints.c.no.label("endpoint_no"),
    endpoints.c.id.label("endpoint_id"),
    endpoints.c.name.label("endpoint_name"),
    sites.c.settings,
    sites.c.policy,
    sites.c.memory,
    sites.c.status,
    sites.c.message,
    sites.c.decision,
    sites.c.looked,
    sites.c.took,
    sites.c.network,
    sites.c.history,
    endpoints.c.deleted,
)


def add(fed: Federation, endpoint_no: int, settings: SiteSettings, policy: Policy) -> None:
    """Make an endpoint elastic. Raises Conflict if it is elastic already."""
    row = {
        "endpoint_no": endpoint_no,
        "settings": settings.to_json(),
        "policy": json.dumps(policy.to_dict()),
        "memory": "{}",
        "status": "new",
        "created": time.time(),
    }
    with fed.database.write() as connection:
        if connection.execute(select(sites.c.no).where(sites.c.endpoint_no == endpoint_no)).first():
            raise Conflict("the endpoint is already elastic: change its policy, or remove its site first")
        connection.execute(insert(sites).values(row))


def all_sites(fed: Federation) -> list[Site]:
    """All elastic endpoints, including deleted ones whose sites are not clean yet."""
    query = select(*_COLUMNS).join(sites, sites.c.endpoint_no == endpoints.c.no)
    with fed.database.read() as connection:
        return [_site(row) for row in connection.execute(query)]


def of_user(fed: Federation, user: User) -> list[Site]:
    """A user's elastic endpoints, including deleted ones until their sites are clean."""
    query = select(*_COLUMNS).join(sites, sites.c.endpoint_no == endpoints.c.no)
    query = query.where(endpoints.c.user_no == user.no).order_by(endpoints.c.no)
    with fed.database.read() as connection:
        return [_site(row) for row in connection.execute(query)]


def find(fed: Federation, endpoint_no: int) -> Site:
    """One elastic endpoint. Raises NotFound."""
    with fed.database.read() as connection:
        return _site(_row(connection, endpoint_no))


def set_columns(fed: Federation, endpoint_no: int, **values: Any) -> None:
    """Change columns of a site: ``memory``, ``status``, ``message``, ``decision``, ``looked``, ``took``."""
    if isinstance(values.get("memory"), PlannerState):
        values["memory"] = json.dumps(values["memory"].to_dict())
    with fed.database.write() as connection:
        connection.execute(update(sites).where(sites.c.endpoint_no == endpoint_no).values(**values))


def record_decision(fed: Federation, site: Site, sentence: str, now: float) -> None:
    """Store a decision unless it repeats the last one; keep the last ``HISTORY`` decisions."""
    if sentence == site.decision:
        return
    history = [*site.history, (now, sentence)][-HISTORY:]
    set_columns(fed, site.endpoint_no, decision=sentence, history=json.dumps(history))


def record_route(fed: Federation, site: Site, route: str, now: float) -> None:
    """Store the route (``name=host:port``) that a worker used."""
    name, _, address = route.partition("=")
    if route and route != site.route:
        set_columns(
            fed, site.endpoint_no, network=json.dumps({"way": name, "address": address, "since": now})
        )


def remove(fed: Federation, endpoint_no: int) -> None:
    """Delete the rows of a site and its blocks; the site itself is not touched."""
    with fed.database.write() as connection:
        connection.execute(delete(blocks).where(blocks.c.endpoint_no == endpoint_no))
        connection.execute(delete(sites).where(sites.c.endpoint_no == endpoint_no))


def pause(fed: Federation, user: User, name_or_id: str, reason: str) -> dict[str, Any]:
    """Stop submitting blocks for an endpoint until it is resumed. Raises NotFound."""
    no = registry.find(fed, user, name_or_id).no
    return update_planner_state(
        fed, no, lambda state: replace(state, paused=reason.strip()[:300] or "by its owner")
    )


def resume(fed: Federation, user: User, name_or_id: str) -> dict[str, Any]:
    """Resume submissions after a pause or failures. Raises NotFound."""
    return update_planner_state(fed, registry.find(fed, user, name_or_id).no, failures.resumed)


def set_policy(fed: Federation, user: User, name_or_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change some rules of an endpoint. Raises NotFound, BadRequest."""
    no = registry.find(fed, user, name_or_id).no
    with fed.database.write() as connection:
        before = json.loads(_row(connection, no, change=True).policy)
        policy = Policy.from_dict({**before, **changes})
        values = {"policy": json.dumps(policy.to_dict())}
        connection.execute(update(sites).where(sites.c.endpoint_no == no).values(**values))
    return policy.to_dict()


def update_planner_state(
    fed: Federation, endpoint_no: int, change: Callable[[PlannerState], PlannerState]
) -> dict[str, Any]:
    """Apply a function to an endpoint's planner state, in one transaction. Raises NotFound."""
    with fed.database.write() as connection:
        state = change(PlannerState.from_dict(json.loads(_row(connection, endpoint_no, change=True).memory)))
        values = {"memory": json.dumps(state.to_dict())}
        connection.execute(update(sites).where(sites.c.endpoint_no == endpoint_no).values(**values))
    return {"paused": state.paused}


def _row(connection: Connection, endpoint_no: int, *, change: bool = False) -> Row:
    """``change``: lock the row until this transaction ends. Raises NotFound."""
    query = select(*_COLUMNS).join(sites, sites.c.endpoint_no == endpoints.c.no)
    query = query.where(endpoints.c.no == endpoint_no)
    row = connection.execute(query.with_for_update(of=sites) if change else query).first()
    if row is None:
        raise NotFound(
            "the endpoint is not elastic: create an elastic one with 'umbel endpoint add'",
            code="ENDPOINT_NOT_FOUND",
        )
    return row


def _site(row: Row) -> Site:
    return Site(
        row.endpoint_no,
        row.endpoint_id,
        row.endpoint_name,
        SiteSettings.from_dict(json.loads(row.settings)),
        Policy.from_dict(json.loads(row.policy)),
        PlannerState.from_dict(json.loads(row.memory)),
        row.status,
        row.message,
        row.decision,
        row.looked,
        json.loads(row.network),
        tuple((when, text) for when, text in json.loads(row.history)),
        row.deleted,
    )
