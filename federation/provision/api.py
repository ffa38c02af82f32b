"""Add, show and remove elastic endpoints, for the REST API and the commands."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from umbel.protocol.envelope import Signer, new_private_key
from umbel.protocol.errors import BadRequest

from ..context import Federation
from ..registry import endpoints as registry
from ..registry import users
from ..registry.users import User
from . import teardown
from .actions import job_spec
from .connection import keys
from .connection.shell import SiteError
from .connection.ssh import Address, host_key
from .planning import decide
from .planning.model import BlockState, PlannerState, View
from .planning.policy import Policy
from .records import blocks, sites
from .records.sites import SiteSettings
from .site.machine import Machine, open_machine


def user_named(fed: Federation, name: str) -> User:
    """Return the user with this name; create it if it does not exist."""
    return users.ensure_user(fed, name)


def add(
    fed: Federation,
    user: User,
    name: str,
    site: Mapping[str, Any],
    policy: Mapping[str, Any],
    *,
    confirm: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Create an elastic endpoint; the provisioner then prepares its site.

    ``confirm``: pin the host keys that the site presents now; the answer contains them for comparison. If the
    service generated the SSH key, the answer contains the ``authorized_keys`` line for the site's account.
    Raises BadRequest, Conflict, SiteError.
    """
    settings, rules = SiteSettings.from_dict(site), Policy.from_dict(policy)
    if dry_run:
        return {"script": _script(fed, settings, rules, name)}
    offered = _host_keys(settings) if settings.address != "local" else []
    if offered and not settings.host_keys and not confirm:
        return {
            "host_keys": _fingerprints(offered),
            "next": "compare these keys with those the site publishes, then repeat the request with confirm",
        }
    settings = settings if settings.host_keys else replace(settings, host_keys=tuple(offered))
    # preparing the site replaces this key; until then no report of the endpoint can be signed
    placeholder = Signer(new_private_key()).public_key
    made = registry.register(
        fed, user, name=name, public_key=placeholder, metadata={"elastic": settings.scheduler}
    )
    no = registry.find(fed, user, name).no
    sites.add(fed, no, settings, rules)
    answer: dict[str, Any] = {"id": made["id"], "name": name, "host_keys": _fingerprints(settings.host_keys)}
    if settings.address != "local" and not settings.key_file and not settings.agent:
        key = keys.site_key(fed.settings.home, made["id"])
        tunnel = settings.network != "direct"
        answer["authorized_keys"] = keys.authorized_line(key, f"umbel:{name}", tunnel=tunnel)
    return answer


def _host_keys(settings: SiteSettings) -> list[str]:
    addresses = [settings.address, *(host for host in settings.hosts if "@" in host)]
    if settings.host_keys and len(settings.host_keys) < len(settings.jumps) + len(addresses):
        raise BadRequest(
            f"site: {len(settings.host_keys)} host_keys for {len(settings.jumps) + len(addresses)} machines: "
            "list the keys of the jump hosts in order, then of the machine, then of each host in 'hosts'"
        )
    if settings.host_keys:
        return list(settings.host_keys)
    if settings.jumps:
        raise BadRequest(
            "site: host keys behind a jump host cannot be fetched before login: set host_keys to the keys "
            "of the jump hosts in order, then of the machine, as printed by 'ssh-keyscan'"
        )
    return [host_key(Address.parse(address)) for address in addresses]


def _fingerprints(host_keys: Any) -> list[dict[str, str]]:
    return [{"key": key, "fingerprint": keys.fingerprint(key)} for key in host_keys]


def _script(fed: Federation, settings: SiteSettings, policy: Policy, name: str) -> str:
    try:
        # the folder is below a home directory whose path is unknown
        absolute = (
            settings
            if settings.folder.startswith("/")
            else replace(settings, folder=f"/home/{settings.folder}")
        )
    except ValueError as error:
        raise BadRequest(f"site: {error}") from None
    example = "00000000-0000-0000-0000-000000000000"
    if settings.address != "local":
        absolute = replace(absolute, host_keys=("ssh-ed25519 AAAA",) * (len(settings.jumps) + 1), agent=True)
    site = sites.Site(
        0, example, name, replace(absolute, network="direct"), policy, PlannerState(), "new", "", "", None
    )
    machine = Machine(site, fed.settings.home, "")
    spec = job_spec(machine, f"{machine.folder}/env-VERSION", "umbel-00000000-00000000", View())
    return machine.scheduler().script(spec)


def show(fed: Federation, user: User, name_or_id: str) -> dict[str, Any]:
    """Return an elastic endpoint with its blocks, status and budget. Raises NotFound."""
    no = registry.find(fed, user, name_or_id).no
    site = sites.find(fed, no)
    with fed.database.read() as connection:
        rows = blocks.active(connection, no)
        view = View(tuple(blocks.block(row) for row in rows))
        day = blocks.used_hours(connection, no, time.time() - blocks.DAY)
        total = blocks.used_hours_total(connection, no)
        listed = blocks.page(connection, no)
    network = {"wanted": site.settings.network, "way": "", "address": "", "since": None, **site.network}
    if site.settings.network == "direct":
        network["way"] = "direct"
    return {
        **_status(site),
        "network": network,
        "history": [{"time": when, "decision": sentence} for when, sentence in reversed(site.history)],
        "policy": site.policy.to_dict(),
        "node_hours": {"day": day, "total": total, "reserved": decide.reserved_hours(view)},
        "bad_nodes": dict(site.planner_state.bad_nodes),
        "blocks": listed,
    }


def remove(fed: Federation, user: User, name_or_id: str, timeout: float = 90.0) -> dict[str, Any]:
    """Cancel an endpoint's blocks, clean up its site and make the endpoint non-elastic. Raises SiteError."""
    no = registry.find(fed, user, name_or_id).no
    sites.pause(fed, user, name_or_id, "its site is being removed")
    machine = open_machine(fed, sites.find(fed, no))
    cancelled: set[str] = set()
    deadline = time.monotonic() + timeout
    pauses = iter(teardown.PAUSES)
    try:
        while left := teardown.run_step(fed, machine):
            cancelled.update(left)
            if time.monotonic() > deadline:
                raise SiteError(
                    f"jobs {', '.join(left)} have not ended, so nothing was deleted: try again in a minute"
                )
            time.sleep(next(pauses, teardown.PAUSE))
    finally:
        machine.close()
    return {"removed": True, "cancelled": len(cancelled), "state": BlockState.CANCELLED.value}


def list_sites(fed: Federation, user: User) -> list[dict[str, Any]]:
    """List a user's elastic endpoints, including deleted ones whose sites are still being cleaned up."""
    return [
        {
            "id": site.endpoint_id,
            "name": site.endpoint_name,
            "address": site.settings.address,
            "scheduler": site.settings.scheduler,
            **_status(site),
        }
        for site in sites.of_user(fed, user)
    ]


def _status(site: sites.Site) -> dict[str, Any]:
    """The status of a site: one word, and a message that explains it."""
    status, message = site.status, site.message
    if site.removing:
        status = "removing"
        message = message or "the endpoint is deleted; its blocks are being cancelled and its site cleaned up"
    elif site.planner_state.paused:
        status, message = "paused", site.planner_state.paused
    elif site.status == "unreachable":
        message = f"{message} (its blocks keep their last known state; the connection will be retried)"
    return {"status": status, "message": message, "decision": site.decision, "looked": site.looked}


def add_remote(fed: Federation, user: User, **values: Any) -> dict[str, Any]:
    """``add`` for users of the REST API: rejects settings that would use the account of the service.

    Also raises BadRequest for those settings.
    """
    settings = SiteSettings.from_dict(values.pop("site"))
    addresses = (settings.address, *settings.hosts, *settings.jumps)
    if settings.key_file or settings.agent or "local" in addresses or "localhost" in addresses:
        raise BadRequest(
            "site: key_file, agent and local addresses are not allowed over the API: the service generates "
            "the SSH key of the site"
        )
    return add(fed, user, values.pop("name"), asdict(settings), values.pop("policy", {}), **values)
