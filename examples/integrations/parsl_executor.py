"""Run Parsl apps on an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from parsl.executors.base import ParslExecutor
from parsl.utils import RepresentationMixin

from umbel import Executor


class UmbelExecutor(ParslExecutor, RepresentationMixin):
    """``options``: of the Executor."""

    def __init__(self, endpoint: str = "local", label: str = "umbel", **options: Any):
        super().__init__()
        self.endpoint, self.label, self.options = endpoint, label, options
        self.storage_access, self.working_dir = None, None

    def start(self) -> None:
        """Connect to the service."""
        self.executor = Executor(self.endpoint, **self.options)

    def submit(
        self, func: Callable[..., Any], resource_specification: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Submit an app."""
        return self.executor.submit(func, *args, **kwargs)

    def shutdown(self) -> None:
        """Cancel what has not finished."""
        self.executor.shutdown(wait=False, cancel_futures=True)
        super().shutdown()
