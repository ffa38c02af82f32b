"""Reading what a call yields, as it comes."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from concurrent.futures import TimeoutError
from typing import Any, Protocol

from ..protocol.errors import StreamRestarted, TaskError
from ..protocol.limits import MAX_WAIT
from ..serialization.codec import load_result


class Source(Protocol):
    """Where items come from."""

    def get_items(
        self, task_id: str, after: int = 0, *, run: int | None = None, wait: float = 0.0
    ) -> dict[str, Any]:
        """Return what a task yielded, without the first ``after`` items."""


def read_stream(source: Source, task_id: str, timeout: float | None) -> Iterator[Any]:
    """Yield the items of a task in their order until it has ended, however it ended.

    Raises TimeoutError when nothing comes for ``timeout`` seconds; StreamRestarted when the task is started
    again after items were yielded here; TaskError (``STREAM_INCOMPLETE``); DeserializeError; NotFound and
    other errors of the service.
    """
    after, run = 0, None
    while True:
        page = _next_page(source, task_id, after, run, timeout)
        if after and page["run"] != run:
            raise StreamRestarted(
                f"the call was started again after {after} of its items were read, and yields from its "
                "beginning: forget them and read the stream once more",
                task_id=task_id,
            )
        for text in page["items"]:
            yield load_result(base64.b64decode(text))
        after, run = page["cursor"], page["run"]
        if page["ended"]:
            break
    if page["total"] is not None and after < page["total"]:
        raise TaskError(
            f"of {page['total']} items only the first {after} have come, others were lost with the broker's "
            "data: submit the call again if you need them",
            code="STREAM_INCOMPLETE",
            task_id=task_id,
        )


def _next_page(
    source: Source, task_id: str, after: int, run: int | None, timeout: float | None
) -> dict[str, Any]:
    """Ask until there is something new."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = MAX_WAIT if deadline is None else max(0.0, deadline - time.monotonic())
        page = source.get_items(task_id, after, run=run, wait=min(left, MAX_WAIT))
        if page["items"] or page["ended"] or (after and page["run"] != run):
            return page
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(f"task {task_id} has yielded nothing for {timeout:g} s")
