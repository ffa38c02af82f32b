"""What people and the API do with elastic endpoints: add, look at, remove."""

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
from .planning.model import BlockState, Memory, View
from .planning.policy import Policy
from .records import blocks, sites
from .records.sites import SiteSettings
from .site.machine import Machine, open_machine


def user_named(fed: Federation, name: str) -> User:
    """The user with a name, made if there is none."""
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
    """Make an elastic endpoint; the provisioner does the rest.

    ``confirm``: pin the host keys that the site shows now, which the answer tells for comparison. The answer
    has the ``authorized_keys`` line for the site's account when the service made the key. Raises BadRequest,
    Conflict, SiteError.
    """
    settings, rules = SiteSettings.from_dict(site), Policy.from_dict(policy)
    if dry_run:
        return {"script": _script(fed, settings, rules, name)}
    shown = _host_keys(settings) if settings.address != "local" else []
    if shown and not settings.host_keys and not confirm:
        return {"host_keys": _shown(shown), "next": "compare them with what the site publishes, then confirm"}
    settings = settings if settings.host_keys else replace(settings, host_keys=tuple(shown))
    # the worker's own key comes with the site's preparation; until then nothing can speak for the endpoint
    nobody = Signer(new_private_key()).public_key
    made = registry.register(
        fed, user, name=name, public_key=nobody, metadata={"elastic": settings.scheduler}
    )
    no = registry.find(fed, user, name).no
    sites.add(fed, no, settings, rules)
    answer: dict[str, Any] = {"id": made["id"], "name": name, "host_keys": _shown(settings.host_keys)}
    if settings.address != "local" and not settings.key_file and not settings.agent:
        key = keys.site_key(fed.settings.home, made["id"])
        tunnel = settings.network != "direct"
        answer["authorized_keys"] = keys.authorized_line(key, f"umbel:{name}", tunnel=tunnel)
    return answer


def _host_keys(settings: SiteSettings) -> list[str]:
    places = [settings.address, *(host for host in settings.hosts if "@" in host)]
    if settings.host_keys and len(settings.host_keys) < len(settings.jumps) + len(places):
        raise BadRequest(
            f"site: {len(settings.host_keys)} host_keys for {len(settings.jumps) + len(places)} machines: "
            "give those of the jump hosts in their order, of the machine, of the hosts of the list"
        )
    if settings.host_keys:
        return list(settings.host_keys)
    if settings.jumps:
        raise BadRequest(
            "site: what is behind a jump host cannot be looked at without logging in: give host_keys, of the "
            "jump hosts in their order and of the machine, as 'ssh-keyscan' shows them there"
        )
    return [host_key(Address.parse(place)) for place in places]


def _shown(host_keys: Any) -> list[dict[str, str]]:
    return [{"key": key, "fingerprint": keys.fingerprint(key)} for key in host_keys]


def _script(fed: Federation, settings: SiteSettings, policy: Policy, name: str) -> str:
    absolute = (
        settings if settings.folder.startswith("/") else replace(settings, folder=f"/home/{settings.folder}")
    )
    example = "00000000-0000-0000-0000-000000000000"
    if settings.address != "local":
        absolute = replace(absolute, host_keys=("ssh-ed25519 AAAA",) * (len(settings.jumps) + 1), agent=True)
    site = sites.Site(
        0, example, name, replace(absolute, network="direct"), policy, Memory(), "new", "", "", None
    )
    machine = Machine(site, fed.settings.home, "")
    spec = job_spec(machine, f"{machine.folder}/env-VERSION", "umbel-00000000-00000000", View())
    return machine.scheduler().script(spec)


def look(fed: Federation, user: User, name_or_id: str) -> dict[str, Any]:
    """An elastic endpoint with its blocks, its status and its budget. Raises NotFound."""
    no = registry.find(fed, user, name_or_id).no
    site = sites.find(fed, no)
    with fed.database.read() as connection:
        rows = blocks.active(connection, no)
        view = View(tuple(blocks.block(row) for row in rows))
        day = blocks.used_hours(connection, no, time.time() - blocks.DAY)
        total = blocks.used_hours_ever(connection, no)
        shown = blocks.page(connection, no)
    network = {"wanted": site.settings.network, "way": "", "address": "", "since": None, **site.network}
    if site.settings.network == "direct":
        network["way"] = "direct"
    return {
        **_standing(site),
        "network": network,
        "history": [{"time": when, "decision": sentence} for when, sentence in reversed(site.history)],
        "policy": site.policy.to_dict(),
        "node_hours": {"day": day, "total": total, "reserved": decide.reserved_hours(view)},
        "bad_nodes": dict(site.memory.bad_nodes),
        "blocks": shown,
    }


def remove(fed: Federation, user: User, name_or_id: str, timeout: float = 90.0) -> dict[str, Any]:
    """Cancel an endpoint's blocks, clean its site, and make it an ordinary one again. Raises SiteError."""
    no = registry.find(fed, user, name_or_id).no
    sites.pause(fed, user, name_or_id, "it is being removed")
    machine = open_machine(fed, sites.find(fed, no))
    cancelled: set[str] = set()
    deadline = time.monotonic() + timeout
    pauses = iter(teardown.PAUSES)
    try:
        while left := teardown.leave(fed, machine):
            cancelled.update(left)
            if time.monotonic() > deadline:
                raise SiteError(
                    f"jobs {', '.join(left)} do not end: try again in a minute; nothing was deleted"
                )
            time.sleep(next(pauses, teardown.PAUSE))
    finally:
        machine.close()
    return {"removed": True, "cancelled": len(cancelled), "state": BlockState.CANCELLED.value}


def list_sites(fed: Federation, user: User) -> list[dict[str, Any]]:
    """A user's elastic endpoints in short, those that are being removed from their sites too."""
    return [
        {
            "id": site.endpoint_id,
            "name": site.endpoint_name,
            "address": site.settings.address,
            "scheduler": site.settings.scheduler,
            **_standing(site),
        }
        for site in sites.of_user(fed, user)
    ]


def _standing(site: sites.Site) -> dict[str, Any]:
    """How it is with a site, in a word and a sentence."""
    status, message = site.status, site.message
    if site.leaving:
        status = "removing"
        message = message or "the endpoint is deleted; its blocks are cancelled and its site is cleaned"
    elif site.memory.paused:
        status, message = "paused", site.memory.paused
    elif site.status == "unreachable":
        message = f"{message} (nothing is assumed of its blocks, and it is tried again)"
    return {"status": status, "message": message, "decision": site.decision, "looked": site.looked}


def add_remote(fed: Federation, user: User, **values: Any) -> dict[str, Any]:
    """``add`` for people who are not on the service's machine: what would use its account is refused.

    Raises BadRequest besides.
    """
    settings = SiteSettings.from_dict(values.pop("site"))
    places = (settings.address, *settings.hosts, *settings.jumps)
    if settings.key_file or settings.agent or "local" in places or "localhost" in places:
        raise BadRequest(
            "over the API a site is reached with a key that the service makes: no key_file, agent or local"
        )
    return add(fed, user, values.pop("name"), asdict(settings), values.pop("policy", {}), **values)
