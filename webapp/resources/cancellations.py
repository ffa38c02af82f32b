"""Cancellations: several tasks at once, whatever their groups."""

from __future__ import annotations

from typing import Any

from federation.ledger import cancel, own

from ..auth import for_scope, user
from ..blueprint import Blueprint
from ..schemas.common import Cancelled
from ..schemas.tasks import CancelIn
from ..state import fed

blp = Blueprint("cancellations", __name__, url_prefix="/v1/cancellations", description=__doc__)


@blp.route("", methods=["POST"])
@for_scope("tasks:cancel")
@blp.arguments(CancelIn)
@blp.response(200, Cancelled)
def cancel_tasks(values: dict[str, Any]) -> dict[str, Any]:
    """Cancel several tasks

    Cancels waiting and running tasks. Has no effect on tasks that have finished.
    """
    values["task_ids"] = own.own_tasks(fed(), user(), values["task_ids"])
    return cancel.cancel_tasks(fed(), user(), **values)
