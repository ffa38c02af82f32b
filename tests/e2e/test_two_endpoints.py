"""Two endpoints, configured and started by hand from two homes, against one service."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from tests.support.embedded import Embedded, HandEndpoint


def _who(number: int) -> tuple[int, int]:
    import os

    return number, os.getpid()


def _pids_used(umbel: Embedded, endpoint: HandEndpoint) -> set[int]:
    with umbel.executor(endpoint.name) as executor:
        futures = [executor.submit(_who, number) for number in range(200)]
        results = [future.result(timeout=60) for future in futures]
        assert [number for number, _ in results] == list(range(200))
        tasks = list(umbel.client().tasks(group_id=executor.group_id))
        assert len(tasks) == 200 and len({task["node"] for task in tasks}) == 1
    return {pid for _, pid in results}


def _family(endpoint: HandEndpoint) -> set[int]:
    return {process.pid for process in psutil.Process(endpoint.pid).children(recursive=True)}


def test_work_runs_at_the_endpoint_it_was_sent_to_and_nowhere_else(tmp_path: Path) -> None:
    with Embedded(tmp_path, workers=0) as umbel:
        lab, cluster = umbel.endpoint("lab", slots=2), umbel.endpoint("cluster", slots=2)
        assert lab.home != cluster.home and not _family(lab) & _family(cluster)
        for endpoint, other in ((lab, cluster), (cluster, lab)):
            used = _pids_used(umbel, endpoint)
            assert used and used <= _family(endpoint) and not used & _family(other)


def test_work_for_an_endpoint_that_is_off_waits_for_it(tmp_path: Path) -> None:
    with Embedded(tmp_path, workers=0) as umbel:
        lab, other = umbel.endpoint("lab"), umbel.endpoint("other")
        lab.stop()
        umbel.wait_online("lab", "offline")
        with umbel.executor("lab") as executor:
            futures = [executor.submit(_who, number) for number in range(50)]
            assert len(_pids_used(umbel, other)) == 1
            assert not any(future.done() for future in futures)
            lab.start()
            family = _family(lab)
            assert all(future.result(timeout=60)[1] in family for future in futures)


def test_an_endpoint_outlives_the_service(tmp_path: Path) -> None:
    with Embedded(tmp_path, workers=0) as umbel:
        lab = umbel.endpoint("lab")
        umbel.stop()
        umbel.start()
        umbel.wait_online("lab")
        pid = lab.pid
        assert _pids_used(umbel, lab) <= _family(lab)
        assert lab.pid == pid and os.path.exists(f"/proc/{pid}")


def test_an_endpoint_killed_and_started_again_goes_on(tmp_path: Path) -> None:
    with Embedded(tmp_path, workers=0) as umbel:
        lab = umbel.endpoint("lab", slots=2)
        with umbel.executor("lab") as executor:
            futures = [executor.submit(pow, 2, n) for n in range(500)]
            futures[0].result(timeout=30)
            lab.kill()
            lab.start()
            assert [future.result(timeout=90) for future in futures] == [2**n for n in range(500)]
