"""dask-jobqueue on the site's login node: SLURMCluster with adaptive scaling."""

from __future__ import annotations

import os
import sys
from typing import Any

from dask_jobqueue import SLURMCluster
from distributed import Client
from work import BLOCKS, MANY, SLOTS, measure, nap, report, wait_for_line, wait_jobs

address, rounds, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def main() -> None:
    """Run all works."""
    os.makedirs(folder, exist_ok=True)
    cluster = SLURMCluster(
        queue="debug",
        cores=SLOTS,
        processes=1,
        memory="1GB",
        walltime="00:30:00",
        python=sys.executable,
        scheduler_options={"host": address, "dashboard_address": None},
        job_directives_skip=["--mem"],
        job_script_prologue=[f"export PYTHONPATH={os.path.dirname(os.path.abspath(__file__))}"],
        log_directory=folder,
        local_directory=folder,
    )
    client = Client(cluster)
    cluster.adapt(minimum_jobs=0, maximum_jobs=BLOCKS)

    def submit(seconds: float) -> Any:
        return client.submit(nap, seconds, pure=False)

    measure(submit, rounds, report)
    cluster.adapt(minimum_jobs=MANY, maximum_jobs=MANY)
    wait_jobs(lambda count: count == MANY)
    report(work="many")
    wait_for_line()
    client.close()
    cluster.close()
    wait_jobs(lambda count: count == 0)
    report(work="end")


if __name__ == "__main__":
    main()
