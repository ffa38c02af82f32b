"""Parsl's HighThroughputExecutor through its DataFlowKernel: one local block of two workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

from benchmarks.functions import BY_NAME
from benchmarks.works import SLOTS

from .base import Peer


class ParslHtex(Peer):
    """Encrypted (the default), with a prefetch of 64, which is faster."""

    packages = ("parsl", "pyzmq")
    roles = (("process_worker_pool", "workers"), ("interchange", "interchange"), ("parsl", "helper"))

    def start(self) -> None:
        """Start executor and block."""
        executor = HighThroughputExecutor(
            label="htex", address="127.0.0.1", max_workers_per_node=SLOTS, prefetch_capacity=64,
            encrypted=True,
            provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
        )  # fmt: skip
        folder = str(self.folder / "parsl")
        self._kernel = parsl.load(
            Config(
                executors=[executor],
                strategy="none",
                usage_tracking=0,
                initialize_logging=False,
                run_dir=folder,
            )
        )
        self._apps = {name: parsl.python_app(function) for name, function in BY_NAME.items()}

    def run(self, function: str, items: Sequence[Any]) -> list[Any]:
        """Submit one by one and gather."""
        futures = [self._apps[function](item) for item in items]
        return [future.result() for future in futures]

    def stop(self) -> None:
        """Stop everything."""
        self._kernel.cleanup()
        parsl.clear()
