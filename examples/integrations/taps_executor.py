"""Run the applications of TaPS (Task Performance Suite) on an endpoint: ``--engine.executor umbel``."""

from __future__ import annotations

from concurrent.futures import Executor as AnyExecutor
from typing import Literal

from pydantic import Field
from taps.executor import ExecutorConfig
from taps.executor.utils import FutureDependencyExecutor
from taps.plugins import register

from umbel import Executor


@register("executor")
class UmbelConfig(ExecutorConfig):
    """The executor ``umbel`` of TaPS."""

    name: Literal["umbel"] = Field("umbel", description="Executor name.")
    endpoint: str = Field("local", description="Name or id of the endpoint.")

    def get_executor(self) -> AnyExecutor:
        """Return an executor that waits for futures among the arguments of a call."""
        return FutureDependencyExecutor(Executor(self.endpoint))
