"""Elastic endpoints: batch jobs on a cluster behind SSH that come and go with an endpoint's queue."""

from __future__ import annotations

from typing import Any

from federation.provision import api
from federation.provision.records import sites

from ..auth import user
from ..blueprint import Blueprint
from ..schemas.elastic import Elastic, Pause, Paused, Policy, SiteAnswer, SiteIn, Sites
from ..state import fed

blp = Blueprint("elastic", __name__, url_prefix="/v1", description=__doc__)


@blp.route("/sites", methods=["POST"])
@blp.arguments(SiteIn)
@blp.fails("NAME_TAKEN", "BAD_REQUEST", "UNAVAILABLE")
@blp.response(200, SiteAnswer)
def add_elastic_endpoint(values: dict[str, Any]) -> dict[str, Any]:
    """Make an elastic endpoint

    Without `confirm` nothing is made yet: the answer shows the site's host keys for comparison. The answer to
    the confirmed request has the line for the account's `authorized_keys`.
    """
    return api.add_remote(fed(), user(), **values)


@blp.route("/sites", methods=["GET"])
@blp.response(200, Sites)
def list_sites() -> dict[str, Any]:
    """List your elastic endpoints, and those whose sites are being cleaned after their deletion"""
    return {"items": api.list_sites(fed(), user())}


@blp.route("/endpoints/<endpoint>/blocks", methods=["GET"])
@blp.fails("ENDPOINT_NOT_FOUND")
@blp.response(200, Elastic)
def show_blocks(endpoint: str) -> dict[str, Any]:
    """Show an elastic endpoint's blocks, status, last decision and budget"""
    return api.show(fed(), user(), endpoint)


@blp.route("/endpoints/<endpoint>/pause", methods=["POST"])
@blp.arguments(Pause)
@blp.fails("ENDPOINT_NOT_FOUND")
@blp.response(200, Paused)
def pause_blocks(values: dict[str, Any], endpoint: str) -> dict[str, Any]:
    """Submit no more blocks until it is resumed; what runs goes on"""
    return sites.pause(fed(), user(), endpoint, values.get("reason", ""))


@blp.route("/endpoints/<endpoint>/resume", methods=["POST"])
@blp.fails("ENDPOINT_NOT_FOUND")
@blp.response(200, Paused)
def resume_blocks(endpoint: str) -> dict[str, Any]:
    """Submit blocks again, whatever has failed before"""
    return sites.resume(fed(), user(), endpoint)


@blp.route("/endpoints/<endpoint>/policy", methods=["PATCH"])
@blp.arguments(Policy)
@blp.fails("ENDPOINT_NOT_FOUND", "BAD_REQUEST")
@blp.response(200, Policy)
def change_policy(values: dict[str, Any], endpoint: str) -> dict[str, Any]:
    """Change some rules of an elastic endpoint"""
    return sites.set_policy(fed(), user(), endpoint, values)
