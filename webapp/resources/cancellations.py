"""Cancellations: several tasks at once, whatever their groups."""

from __future__ import annotations

from typing import Any

from federation.ledger import cancel

from ..auth import user
from ..blueprint import Blueprint
from ..schemas.common import Cancelled
from ..schemas.tasks import CancelIn
from ..state import fed

blp = Blueprint("cancellations", __name__, url_prefix="/v1/cancellations", description=__doc__)


@blp.route("", methods=["POST"])
@blp.arguments(CancelIn)
@blp.response(200, Cancelled)
def cancel_tasks(values: dict[str, Any]) -> dict[str, Any]:
    """Cancel several tasks

    Cancels waiting and running tasks. Has no effect on tasks that have finished.
    """
    return cancel.cancel_tasks(fed(), user(), **values)
