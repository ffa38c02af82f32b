"""Functions: serialized bodies to be run on endpoints."""

from __future__ import annotations

from typing import Any

from federation.ledger import samples
from federation.registry import functions

from ..auth import user
from ..blueprint import Blueprint
from ..schemas.common import PageQuery, page
from ..schemas.functions import Function, FunctionIn, FunctionPage, Summary
from ..state import fed

blp = Blueprint("functions", __name__, url_prefix="/v1/functions", description=__doc__)


@blp.route("", methods=["POST"])
@blp.arguments(FunctionIn)
@blp.fails("PAYLOAD_TOO_LARGE")
@blp.alt_response(200, schema=Function, description="It was there already, and stays as it is.", success=True)
@blp.response(201, Function)
def register_function(values: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Keep a function

    The same body of the same owner is the same function and keeps its id.
    """
    function, made = functions.ensure(fed(), user(), **values)
    return function, 201 if made else 200


@blp.route("", methods=["GET"])
@blp.arguments(PageQuery, location="query")
@blp.response(200, FunctionPage)
def list_functions(query: dict[str, Any]) -> dict[str, Any]:
    """List your functions, newest first, without their sources"""
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
    """Show what calls of a function used, for choosing limits"""
    return samples.summary(fed(), user(), function_id)


@blp.route("/<function_id>", methods=["DELETE"])
@blp.fails("FUNCTION_NOT_FOUND")
@blp.response(204)
def delete_function(function_id: str) -> None:
    """Take a function out of use

    Tasks that were submitted before still run.
    """
    functions.delete(fed(), user(), function_id)
