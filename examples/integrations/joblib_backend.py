"""Run ``joblib.Parallel``, and so scikit-learn, on an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from joblib import register_parallel_backend
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase

from umbel import Executor


class UmbelBackend(AutoBatchingMixin, ParallelBackendBase):
    """``slots``: number of calls at once for ``n_jobs=-1``; ``options``: of the Executor."""

    supports_retrieve_callback = True

    def __init__(self, endpoint: str = "local", slots: int = 4, nesting_level: int = 0, **options: Any):
        super().__init__(nesting_level=nesting_level)
        self.slots, self.connect = slots, partial(Executor, endpoint, **options)

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return the number of calls at once."""
        return self.slots if n_jobs in (None, -1) else n_jobs

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """Begin to work for ``parallel``."""
        self.parallel, self.executor = parallel, self.connect()
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any]) -> Future[Any]:
        """Submit a batch of calls; ``run_batch`` is sent once for all of them."""
        future = self.executor.submit(run_batch, func)
        future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the results of a batch, or raise its error."""
        return out.result()

    def terminate(self) -> None:
        """End the work; cancel what is left after an error."""
        self.executor.shutdown(wait=False, cancel_futures=True)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the work after an error."""
        self.terminate()
        super().abort_everything(ensure_ready)


def run_batch(batch: Callable[[], Any]) -> Any:
    """Run a batch of joblib."""
    return batch()


register_parallel_backend("umbel", UmbelBackend)
