"""One-time codes: register an endpoint on a machine that does not have your token."""

from __future__ import annotations

from typing import Any

from federation.registry import codes

from ..auth import token, user, with_one_time_code
from ..blueprint import Blueprint
from ..schemas.endpoints import Code, CodeIn, EndpointIn, NewEndpoint
from ..state import fed

blp = Blueprint("codes", __name__, url_prefix="/v1", description=__doc__)


@blp.route("/codes", methods=["POST"])
@blp.arguments(CodeIn)
@blp.response(201, Code)
def make_code(values: dict[str, Any]) -> dict[str, Any]:
    """Create a one-time code to register an endpoint

    The code registers one endpoint of the given name, once, before it expires. It grants no other access.
    """
    return codes.create(fed(), user(), **values)


@blp.route("/registrations", methods=["POST"])
@with_one_time_code
@blp.arguments(EndpointIn)
@blp.fails("NAME_TAKEN")
@blp.response(201, NewEndpoint)
def register_with_code(values: dict[str, Any]) -> dict[str, Any]:
    """Register an endpoint with a one-time code

    Send the code as the bearer token. The endpoint belongs to the user who created the code. The response
    contains the endpoint's credentials, which are shown only once.
    """
    return codes.redeem(fed(), user(), token(), **values)
