"""The service itself: who is asking, is it well, which version is it."""

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
    """Tell whose token this is"""
    return {"id": user().id, "name": user().name}


@blp.route("/health", methods=["GET"])
@blp.doc(security=[])
@open_to_all
@blp.alt_response(503, schema=Health, description="The database does not answer.")
@blp.response(200, Health)
def get_health() -> tuple[dict[str, Any], int]:
    """Tell whether database, broker and collector are well

    `degraded` with status 200: work is accepted and kept, but may have to wait.
    """
    found = health.health(fed())
    return found, 200 if found["database"] == "ok" else 503


@blp.route("/version", methods=["GET"])
@blp.doc(security=[])
@open_to_all
@blp.response(200, Version)
def get_version() -> dict[str, Any]:
    """Tell the versions of the product and of its protocol"""
    return {"version": __version__, "protocol": PROTOCOL_VERSION}
