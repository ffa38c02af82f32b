"""Read the items that a task yields while it runs."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from concurrent.futures import TimeoutError
from typing import Any, Protocol

from ..protocol.errors import ServiceUnavailable, StreamRestarted, TaskError, TooMany
from ..protocol.limits import MAX_WAIT
from ..serialization.codec import load_result

#: How much later than a poll's own wait its answer may arrive (seconds).
MARGIN = 0.5


class ItemSource(Protocol):
    """A source of items, such as a ``Client``."""

    def get_items(
        self,
        task_id: str,
        after: int = 0,
        *,
        run: int | None = None,
        wait: float = 0.0,
        patience: float | None = None,
    ) -> dict[str, Any]:
        """Return the items that a task has yielded, without the first ``after``."""


def read_stream(source: ItemSource, task_id: str, timeout: float | None) -> Iterator[Any]:
    """Yield the items of a task in order until the task has finished, whatever its outcome.

    Raises TimeoutError when no item arrives for ``timeout`` seconds, StreamRestarted when the task is started
    again after items were yielded here, TaskError (``STREAM_INCOMPLETE``), DeserializeError, ServiceError.
    """
    after, run = 0, None
    while True:
        page = _next_page(source, task_id, after, run, timeout)
        if after and page["run"] != run:
            raise StreamRestarted(
                f"task {task_id} was started again after {after} of its items were read: discard those items "
                "and read the stream again from the first one",
                task_id=task_id,
            )
        for text in page["items"]:
            yield load_result(base64.b64decode(text))
        after, run = page["cursor"], page["run"]
        if page["ended"]:
            break
    if page["total"] is not None and after < page["total"]:
        raise TaskError(
            f"only the first {after} of {page['total']} items of task {task_id} arrived, the others were "
            "lost with the broker's data: submit the call again if you need them",
            code="STREAM_INCOMPLETE",
            task_id=task_id,
        )


def _get_items(
    source: ItemSource, task_id: str, after: int, run: int | None, left: float, patience: float | None
) -> dict[str, Any]:
    wait = min(left, MAX_WAIT)
    return source.get_items(task_id, after, run=run, wait=wait, patience=patience)


def _next_page(
    source: ItemSource, task_id: str, after: int, run: int | None, timeout: float | None
) -> dict[str, Any]:
    """Request items until there are new ones or the task has finished."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = MAX_WAIT if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            page = _get_items(source, task_id, after, run, left, None if deadline is None else left + MARGIN)
        except (ServiceUnavailable, TooMany) as error:
            # a poll that has no place for now ends nothing
            if isinstance(error, TooMany) and (deadline is None or time.monotonic() < deadline):
                time.sleep(min(left, 1.0))
                continue
            if deadline is None or time.monotonic() < deadline:
                raise
            raise TimeoutError(
                f"task {task_id} has not yielded an item for {timeout:g} s ({error})"
            ) from error
        if page["items"] or page["ended"] or (after and page["run"] != run):
            return page
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(f"task {task_id} has not yielded an item for {timeout:g} s")
