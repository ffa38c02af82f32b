"""Run a dask graph on an endpoint: dask accepts any ``concurrent.futures.Executor`` as its scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dask

from umbel import Executor


@contextmanager
def dask_on(endpoint: str, slots: int, **options: object) -> Iterator[Executor]:
    """Compute every dask collection of the block on ``endpoint``.

    ``slots``: number of tasks that dask submits at once, usually the slots of the endpoint.
    """
    with Executor(endpoint, **options) as executor, dask.config.set(scheduler=executor, num_workers=slots):
        yield executor
