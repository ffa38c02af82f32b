"""Elastic endpoints: the service starts batch jobs on a cluster over SSH as the queue grows."""

from __future__ import annotations

from typing import Any

from federation.provision import api
from federation.provision.records import sites

from ..auth import user
from ..blueprint import Blueprint
from ..schemas.elastic import ElasticEndpoint, Pause, Paused, Policy, SiteIn, SiteResponse, Sites
from ..state import fed

blp = Blueprint("elastic", __name__, url_prefix="/v1", description=__doc__)


@blp.route("/sites", methods=["POST"])
@blp.arguments(SiteIn)
@blp.fails("NAME_TAKEN", "BAD_REQUEST", "UNAVAILABLE")
@blp.response(200, SiteResponse)
def add_elastic_endpoint(values: dict[str, Any]) -> dict[str, Any]:
    """Create an elastic endpoint

    Without `confirm`, nothing is created and the response contains the host keys of the site: compare them
    with the published ones, then repeat the request with `confirm`. The response then contains the line to
    add to `authorized_keys` of the account on the site.
    """
    return api.add_remote(fed(), user(), **values)


@blp.route("/sites", methods=["GET"])
@blp.response(200, Sites)
def list_sites() -> dict[str, Any]:
    """List your elastic endpoints

    Deleted endpoints are listed until their sites are cleaned up.
    """
    return {"items": api.list_sites(fed(), user())}


@blp.route("/endpoints/<endpoint>/blocks", methods=["GET"])
@blp.fails("ENDPOINT_NOT_FOUND")
@blp.response(200, ElasticEndpoint)
def show_blocks(endpoint: str) -> dict[str, Any]:
    """Show the blocks, status, decisions and budget of an elastic endpoint

    Lists all active blocks and the 50 newest ended ones.
    """
    return api.show(fed(), user(), endpoint)


@blp.route("/endpoints/<endpoint>/pause", methods=["POST"])
@blp.arguments(Pause)
@blp.fails("ENDPOINT_NOT_FOUND")
@blp.response(200, Paused)
def pause_blocks(values: dict[str, Any], endpoint: str) -> dict[str, Any]:
    """Pause an elastic endpoint

    No more blocks are submitted until the endpoint is resumed. Running blocks are not affected.
    """
    return sites.pause(fed(), user(), endpoint, values.get("reason", ""))


@blp.route("/endpoints/<endpoint>/resume", methods=["POST"])
@blp.fails("ENDPOINT_NOT_FOUND")
@blp.response(200, Paused)
def resume_blocks(endpoint: str) -> dict[str, Any]:
    """Resume an elastic endpoint

    Blocks are submitted again; the counts of earlier failures are reset.
    """
    return sites.resume(fed(), user(), endpoint)


@blp.route("/endpoints/<endpoint>/policy", methods=["PATCH"])
@blp.arguments(Policy)
@blp.fails("ENDPOINT_NOT_FOUND", "BAD_REQUEST")
@blp.response(200, Policy)
def change_policy(values: dict[str, Any], endpoint: str) -> dict[str, Any]:
    """Change the policy of an elastic endpoint

    Values that are not in the request stay unchanged. The response contains the complete policy.
    """
    return sites.set_policy(fed(), user(), endpoint, values)
