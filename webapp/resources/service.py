"""The service: the current user, its health and its version."""

from __future__ import annotations

from typing import Any

from federation.services import health
from umbel.protocol.version import PROTOCOL_VERSION, __version__

from ..auth import open_to_all, user
from ..blueprint import Blueprint
from ..schemas.service import Health, Version, Whoami
from ..state import fed

blp = Blueprint("service", __name__, description=__doc__)


@blp.route("/v1/whoami", methods=["GET"])
@blp.response(200, Whoami)
def get_user() -> dict[str, Any]:
    """Show the user of the token"""
    return {"id": user().id, "name": user().name}


@blp.route("/health", methods=["GET"])
@blp.doc(security=[])
@open_to_all
@blp.alt_response(503, schema=Health, description="The database is unreachable, or the service is starting.")
@blp.response(200, Health)
def get_health() -> tuple[dict[str, Any], int]:
    """Check the health of database, broker and collector

    `degraded` with status 200 means that tasks are accepted and stored, but may be delayed. Status 503 means
    that the database is unreachable, or, with `starting`, that `up` has not started all parts yet.
    """
    found = health.health(fed())
    return found, 200 if found["database"] == "ok" and found["status"] != "starting" else 503


@blp.route("/version", methods=["GET"])
@blp.doc(security=[])
@open_to_all
@blp.response(200, Version)
def get_version() -> dict[str, Any]:
    """Show the versions of the service and of its protocol"""
    return {"version": __version__, "protocol": PROTOCOL_VERSION}
