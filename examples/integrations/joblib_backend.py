"""Run ``joblib.Parallel``, and so scikit-learn, on an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from joblib import register_parallel_backend
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase

from umbel import Executor


class UmbelBackend(AutoBatchingMixin, ParallelBackendBase):
    """``slots``: number of calls at once for ``n_jobs=-1``; ``options``: of the Executor."""

    supports_retrieve_callback = True

    def __init__(self, endpoint: str = "local", slots: int = 4, nesting_level: int = 0, **options: Any):
        super().__init__(nesting_level=nesting_level)
        self.endpoint, self.slots, self.options = endpoint, slots, options
        self.executor: Executor | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return the number of calls at once."""
        return self.slots if n_jobs in (None, -1) else n_jobs

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """Begin to work for ``parallel``."""
        self.parallel = parallel
        self.executor = self.executor or Executor(self.endpoint, **self.options)
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Future[Any]:
        """Submit a batch of calls."""
        future = self.executor.submit(run_batch, func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the results of a batch, or raise its error."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what is left after an error."""
        self.executor.shutdown(wait=False, cancel_futures=True)
        self.executor = Executor(self.endpoint, **self.options) if ensure_ready else None

    def terminate(self) -> None:
        """End the work."""
        if self.executor is not None:
            self.executor.shutdown()
            self.executor = None


def run_batch(batch: Callable[[], Any]) -> Any:
    """Run a batch of joblib: one function for all of them, which is sent once."""
    return batch()


register_parallel_backend("umbel", UmbelBackend)
