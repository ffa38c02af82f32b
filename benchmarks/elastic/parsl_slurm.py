"""Parsl on the site's login node: HighThroughputExecutor over SlurmProvider."""

from __future__ import annotations

import sys
from pathlib import Path

import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SimpleLauncher
from parsl.providers import SlurmProvider
from work import BLOCKS, IDLE, MANY, SLOTS, measure, nap, report, wait_for_line, wait_jobs

address, rounds, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def load(low: int, high: int) -> None:
    """Start Parsl with ``low`` to ``high`` blocks."""
    provider = SlurmProvider(
        partition="debug",
        exclusive=False,
        cores_per_node=SLOTS,
        init_blocks=low,
        min_blocks=low,
        max_blocks=high,
        walltime="00:30:00",
        launcher=SimpleLauncher(),
        worker_init=f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={Path(__file__).parent}",
    )
    executor = HighThroughputExecutor(
        label="htex", address=address, max_workers_per_node=SLOTS, provider=provider, encrypted=True
    )
    parsl.load(
        Config(
            executors=[executor],
            strategy="htex_auto_scale",
            max_idletime=IDLE,
            run_dir=folder,
            initialize_logging=False,
        )
    )


load(0, BLOCKS)
measure(parsl.python_app(nap), rounds, report)
parsl.dfk().cleanup()
parsl.clear()
load(MANY, MANY)
wait_jobs(lambda count: count == MANY)
report(work="many")
wait_for_line()
parsl.dfk().cleanup()
wait_jobs(lambda count: count == 0)
report(work="end")
