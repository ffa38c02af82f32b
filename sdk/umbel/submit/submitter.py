"""One submission: the request for a batch, repeated until the service accepts or rejects it."""

from __future__ import annotations

import threading
import time

from ..api.client import Client
from ..protocol.errors import BadRequest, NotFound, ServiceUnavailable, TooLarge, TooMany
from .calls import Batch, Route

_NO_FUNCTION = "FUNCTION_NOT_FOUND"


class Submitter:
    """Submits batches, one after the other, and registers their functions before."""

    def __init__(self, client: Client, route: Route):
        self._client = client
        self._route = route
        self._accepted = 0.0

    def submit(self, batch: Batch, given_up: threading.Event) -> list[str]:
        """Submit a batch and return the ids of its tasks; repeat it while the service's queue is full.

        Nothing is repeated after ``given_up`` is set. Raises any error of the service, ServiceUnavailable if
        the answer does not match the calls.
        """
        deadline = self._deadline(batch)
        registered_again = False
        while True:
            functions = [
                (self._client.function_id(part.function, _left(deadline)), len(part.calls))
                for part in batch.parts
            ]
            try:
                return self._request(batch, functions, deadline, given_up)
            except TooMany:
                if deadline is not None:  # the request was repeated until then
                    raise
            except NotFound as error:
                # deleted since this client registered it
                if error.code != _NO_FUNCTION or registered_again:
                    raise
                registered_again = True
                for function_id, _ in functions:
                    self._client.forget_function(function_id)

    def _deadline(self, batch: Batch) -> float | None:
        if self._route.submit_timeout is None:
            return None
        # calls behind submissions that failed wait no longer than they do
        queued = max(part.calls[-1].queued for part in batch.parts)
        return max(queued, self._accepted) + self._route.submit_timeout

    def _request(
        self,
        batch: Batch,
        functions: list[tuple[str, int]],
        deadline: float | None,
        given_up: threading.Event,
    ) -> list[str]:
        calls = batch.calls
        batch.tried = True
        answer = self._client.submit(
            functions,
            self._route.endpoint,
            [call.payload for call in calls],
            group_id=self._route.group_id,
            options=batch.options,
            key=batch.key,
            patience=_left(deadline),
            given_up=given_up,
        )
        self._accepted = time.monotonic()
        task_ids = [str(task_id) for task_id in answer["task_ids"]]
        if len(task_ids) != len(calls):
            raise ServiceUnavailable(
                f"the service answered with {len(task_ids)} task ids for {len(calls)} calls"
            )
        return task_ids


def may_concern_one_function(error: BaseException) -> bool:
    """Return whether an error of a submission may be due to a single function or call."""
    return isinstance(error, (BadRequest, TooLarge)) or getattr(error, "code", "") == _NO_FUNCTION


def _left(deadline: float | None) -> float | None:
    """Return the time until a deadline (seconds); None if there is none."""
    return None if deadline is None else max(0.05, deadline - time.monotonic())
