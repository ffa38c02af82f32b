"""Tasks: calls of functions on endpoints."""

from __future__ import annotations

from typing import Any

from federation.ledger import cancel, query, results, task_list
from federation.ledger.submit import Submission, submit
from federation.registry import call_tokens

from ..auth import for_scope, token, user, with_grant
from ..blueprint import Blueprint
from ..schemas.common import page
from ..schemas.logs import Log, LogQuery
from ..schemas.streams import Items, ItemsQuery
from ..schemas.submissions import Accepted, SubmissionHeaders, SubmissionIn
from ..schemas.tasks import CallToken, Result, Task, TaskPage, TaskQuery
from ..state import fed, state, waiting

blp = Blueprint("tasks", __name__, url_prefix="/v1/tasks", description=__doc__)


@blp.route("", methods=["POST"])
@for_scope("tasks:submit")
@blp.arguments(SubmissionHeaders, location="headers")
@blp.arguments(SubmissionIn)
@blp.fails("FUNCTION_NOT_FOUND", "ENDPOINT_NOT_FOUND", "GROUP_NOT_FOUND", "IDEMPOTENCY_MISMATCH", "CONFLICT")
@blp.fails("PAYLOAD_TOO_LARGE", "QUEUE_FULL")
@blp.response(202, Accepted)
def submit_tasks(headers: dict[str, str], submission: Submission) -> dict[str, Any]:
    """Submit tasks

    Submits one task per payload, all for the same endpoint: calls of one function, `function_id`, or of
    several, `functions`. Status 202 means that all tasks are stored on disk and will be run. Otherwise, no
    task is.
    """
    return submit(fed(), user(), submission, headers.get("key"))


@blp.route("", methods=["GET"])
@for_scope("tasks:read")
@blp.arguments(TaskQuery, location="query")
@blp.response(200, TaskPage)
def list_tasks(filters: dict[str, Any]) -> dict[str, Any]:
    """List your tasks, newest first"""
    return page(task_list.tasks_page(fed(), user(), **filters))


@blp.route("/<task_id>", methods=["GET"])
@for_scope("tasks:read")
@blp.fails("TASK_NOT_FOUND")
@blp.response(200, Task)
def get_task(task_id: str) -> dict[str, Any]:
    """Show a task"""
    return query.task(fed(), user(), task_id)


@blp.route("/<task_id>/cancel", methods=["POST"])
@for_scope("tasks:cancel")
@blp.fails("TASK_NOT_FOUND")
@blp.response(200, Task)
def cancel_task(task_id: str) -> dict[str, Any]:
    """Cancel a task

    Cancels a waiting or running task. Has no effect on a task that has finished.
    """
    return cancel.cancel_task(fed(), user(), task_id)


@blp.route("/<task_id>/token", methods=["POST"])
@with_grant
@blp.fails("FORBIDDEN")
@blp.response(201, CallToken)
def create_call_token(task_id: str) -> dict[str, Any]:
    """Create a token for a running task that submits further tasks

    Send the grant that the endpoint has signed for the task's bundle as the bearer token. The task must have
    the option `nested`. The token is valid for an hour at most, and only while the task runs. With it a call
    registers functions, submits tasks as the task's user, and reads and cancels those tasks; everything else
    is FORBIDDEN.
    """
    return call_tokens.create(fed(), token(), task_id)


@blp.route("/<task_id>/log", methods=["GET"])
@for_scope("tasks:read")
@blp.arguments(LogQuery, location="query")
@blp.fails("TASK_NOT_FOUND", "TOO_MANY_REQUESTS")
@blp.response(200, Log)
def get_log(place: dict[str, Any], task_id: str) -> dict[str, Any]:
    """Read the output of a task

    Returns what the task wrote to standard output and standard error, also while it runs. If there is nothing
    after `offset` and the task has not finished, waits up to `wait` seconds. The output of a running task is
    updated about every second, less often for tasks that write a lot or run for hours.
    """
    return state().polls.log(user(), task_id, **place, **waiting())


@blp.route("/<task_id>/items", methods=["GET"])
@for_scope("tasks:read")
@blp.arguments(ItemsQuery, location="query")
@blp.fails("TASK_NOT_FOUND", "TOO_MANY_REQUESTS")
@blp.response(200, Items)
def get_items(place: dict[str, Any], task_id: str) -> dict[str, Any]:
    """Read the items that a task yields

    Returns the items after the first `after` ones, also while the task runs. If there are none and the task
    has not finished, waits up to `wait` seconds. If the task was started again since `run`, returns the items
    of the new run from the first one.
    """
    return state().polls.items(user(), task_id, **place, **waiting())


@blp.route("/<task_id>/result", methods=["GET"])
@for_scope("tasks:read")
@blp.fails("TASK_NOT_FOUND", "RESULT_NOT_READY")
@blp.response(200, Result)
def get_result(task_id: str) -> dict[str, Any]:
    """Show the result of a finished task

    Contains the final state and the returned value or the raised exception.
    """
    return results.result(fed(), user(), task_id)
