"""One-time codes, with which machines register endpoints without anybody's token."""

from __future__ import annotations

from typing import Any

from federation.registry import codes

from ..auth import by_code, token, user
from ..blueprint import Blueprint
from ..schemas.endpoints import Code, CodeIn, EndpointIn, NewEndpoint
from ..state import fed

blp = Blueprint("codes", __name__, url_prefix="/v1", description=__doc__)


@blp.route("/codes", methods=["POST"])
@blp.arguments(CodeIn)
@blp.response(201, Code)
def make_code(values: dict[str, Any]) -> dict[str, Any]:
    """Make a one-time code with which a machine registers an endpoint for you

    It is good for that name, once, until it expires, and for nothing else.
    """
    return codes.create(fed(), user(), **values)


@blp.route("/registrations", methods=["POST"])
@by_code
@blp.arguments(EndpointIn)
@blp.fails("NAME_TAKEN")
@blp.response(201, NewEndpoint)
def register_with_code(values: dict[str, Any]) -> dict[str, Any]:
    """Register an endpoint, bearing a one-time code instead of a token

    The endpoint belongs to the code's maker. The answer holds its credentials, which cannot be read again.
    """
    return codes.redeem(fed(), user(), token(), **values)
