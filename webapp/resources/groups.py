"""Groups: sets of tasks whose results are read together."""

from __future__ import annotations

from typing import Any

from federation.ledger import cancel, query
from umbel.protocol.parcel import RESULTS_TYPE, result_pieces

from ..auth import for_scope, user
from ..blueprint import Blueprint
from ..schemas.common import Cancelled
from ..schemas.groups import CancelQuery, Group, Results, ResultsQuery
from ..state import fed, state, waiting

blp = Blueprint("groups", __name__, url_prefix="/v1/groups", description=__doc__)


@blp.route("/<group_id>", methods=["GET"])
@for_scope("tasks:read")
@blp.fails("GROUP_NOT_FOUND")
@blp.response(200, Group)
def get_group(group_id: str) -> dict[str, Any]:
    """Show a group with the number of its tasks by state"""
    return query.group(fed(), user(), group_id)


@blp.route("/<group_id>/results", methods=["GET"])
@for_scope("tasks:read")
@blp.arguments(ResultsQuery, location="query")
@blp.fails("GROUP_NOT_FOUND", "TOO_MANY_REQUESTS")
@blp.response(200, Results, parcel=(RESULTS_TYPE, result_pieces))
def get_results(place: dict[str, Any], group_id: str) -> dict[str, Any]:
    """Read the results of a group

    Returns the results after cursor `after`, in the order in which the tasks finished. If there are none yet,
    waits up to `wait` seconds for the first. Pass the returned `cursor` and `epoch` as `after` and `epoch` of
    the next request to read every result exactly once.
    """
    return state().polls.results(user(), group_id, **place, **waiting())


@blp.route("/<group_id>/cancel", methods=["POST"])
@for_scope("tasks:cancel")
@blp.arguments(CancelQuery, location="query")
@blp.fails("GROUP_NOT_FOUND")
@blp.response(200, Cancelled)
def cancel_group(choice: dict[str, Any], group_id: str) -> dict[str, Any]:
    """Cancel all unfinished tasks of a group"""
    return cancel.cancel_group(fed(), user(), group_id, **choice)
