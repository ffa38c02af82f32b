"""Endpoints: machines or clusters that run tasks. Identify an endpoint by its id or its name."""

from __future__ import annotations

from typing import Any

from federation.registry import endpoints

from ..auth import user
from ..blueprint import Blueprint
from ..schemas.common import PageQuery, page
from ..schemas.endpoints import Endpoint, EndpointChange, EndpointIn, EndpointPage, NewEndpoint
from ..state import fed

blp = Blueprint("endpoints", __name__, url_prefix="/v1/endpoints", description=__doc__)


@blp.route("", methods=["POST"])
@blp.arguments(EndpointIn)
@blp.fails("NAME_TAKEN")
@blp.response(201, NewEndpoint)
def register_endpoint(values: dict[str, Any]) -> dict[str, Any]:
    """Register an endpoint

    The response contains the endpoint's credentials, which are shown only once.
    """
    return endpoints.register(fed(), user(), **values)


@blp.route("", methods=["GET"])
@blp.arguments(PageQuery, location="query")
@blp.response(200, EndpointPage)
def list_endpoints(query: dict[str, Any]) -> dict[str, Any]:
    """List your endpoints, newest first"""
    return page(endpoints.page(fed(), user(), **query))


@blp.route("/<endpoint>", methods=["GET"])
@blp.fails("ENDPOINT_NOT_FOUND")
@blp.response(200, Endpoint)
def get_endpoint(endpoint: str) -> dict[str, Any]:
    """Show an endpoint with its nodes and its queue"""
    return endpoints.get(fed(), user(), endpoint)


@blp.route("/<endpoint>", methods=["PATCH"])
@blp.arguments(EndpointChange)
@blp.fails("ENDPOINT_NOT_FOUND")
@blp.response(200, Endpoint)
def change_endpoint(values: dict[str, Any], endpoint: str) -> dict[str, Any]:
    """Change the description or the metadata of an endpoint

    Fields that are not in the request stay unchanged.
    """
    return endpoints.update(fed(), user(), endpoint, **values)


@blp.route("/<endpoint>", methods=["DELETE"])
@blp.fails("ENDPOINT_NOT_FOUND", "IN_USE")
@blp.response(204)
def delete_endpoint(endpoint: str) -> None:
    """Delete an endpoint

    Fails with IN_USE while the endpoint has unfinished tasks.
    """
    endpoints.delete(fed(), user(), endpoint)
