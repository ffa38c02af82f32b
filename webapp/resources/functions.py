"""Functions: serialized Python functions that endpoints run."""

from __future__ import annotations

from typing import Any

from federation.ledger import samples
from federation.registry import functions

from ..auth import for_scope, user
from ..blueprint import Blueprint
from ..schemas.common import PageQuery, page
from ..schemas.functions import Function, FunctionIn, FunctionPage, Summary
from ..state import fed

blp = Blueprint("functions", __name__, url_prefix="/v1/functions", description=__doc__)


@blp.route("", methods=["POST"])
@for_scope("functions:register")
@blp.arguments(FunctionIn)
@blp.fails("PAYLOAD_TOO_LARGE")
@blp.alt_response(
    200, schema=Function, description="The function was registered before; it is unchanged.", success=True
)
@blp.response(201, Function)
def register_function(values: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Register a function

    Registering the same body again returns the existing function with its id; the other fields are ignored.
    """
    function, made = functions.ensure(fed(), user(), **values)
    return function, 201 if made else 200


@blp.route("", methods=["GET"])
@blp.arguments(PageQuery, location="query")
@blp.response(200, FunctionPage)
def list_functions(query: dict[str, Any]) -> dict[str, Any]:
    """List your functions, newest first, without their source code"""
    return page(functions.page(fed(), user(), **query))


@blp.route("/<function_id>", methods=["GET"])
@blp.fails("FUNCTION_NOT_FOUND")
@blp.response(200, Function)
def get_function(function_id: str) -> dict[str, Any]:
    """Show a function"""
    return functions.get(fed(), user(), function_id)


@blp.route("/<function_id>/summary", methods=["GET"])
@blp.fails("FUNCTION_NOT_FOUND")
@blp.response(200, Summary)
def get_summary(function_id: str) -> dict[str, Any]:
    """Show the resource usage of a function's calls

    Use it to choose limits. It is computed from a sample of at most 1,000 recent calls.
    """
    return samples.summary(fed(), user(), function_id)


@blp.route("/<function_id>", methods=["DELETE"])
@blp.fails("FUNCTION_NOT_FOUND")
@blp.response(204)
def delete_function(function_id: str) -> None:
    """Delete a function

    Tasks that were submitted before are still run.
    """
    functions.delete(fed(), user(), function_id)
