"""Calls that occupy several slots, through the SDK, on endpoints whose slots share out their node."""

from __future__ import annotations

import os
import time
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded import Embedded
from tests.support.wait import wait_until
from umbel import TaskError
from umbel.protocol.errors import Conflict


def _where(seconds: float = 0.0) -> dict[str, Any]:
    import os
    import time

    began = time.time()
    time.sleep(seconds)
    names = ("UMBEL_CORES", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
    found = {name: os.environ.get(name) for name in names}
    return {**found, "cpus": sorted(os.sched_getaffinity(0)), "began": began, "ended": time.time()}


def _most_at_once(calls: list[dict[str, Any]]) -> int:
    events = [(call[when], sign * int(call["UMBEL_CORES"])) for call in calls for when, sign in _EDGES]
    most = used = 0
    for _, change in sorted(events):
        used += change
        most = max(most, used)
    return most


_EDGES = (("began", 1), ("ended", -1))


def test_wide_and_narrow_calls_share_an_endpoint_and_neither_starves(tmp_path: Path) -> None:
    with Embedded(tmp_path, workers=0) as umbel:
        umbel.endpoint("lab", slots=3)
        with umbel.executor("lab") as narrow, umbel.executor("lab", cores=2) as wide:
            before = [narrow.submit(_where, 0.05) for _ in range(60)]
            futures = [wide.submit(_where, 0.05) for _ in range(6)]
            after = [narrow.submit(_where, 0.05) for _ in range(60)]
            done, late = wait([*before, *futures, *after], timeout=90)
            assert not late
            wides = [future.result() for future in futures]
            assert {call["UMBEL_CORES"] for call in wides} == {"2"}
            assert {future.result()["UMBEL_CORES"] for future in (*before, *after)} == {"1"}
            assert _most_at_once([future.result() for future in done]) <= 3
            assert min(call["began"] for call in wides) < max(future.result()["began"] for future in after)
        with pytest.raises(Conflict, match="no node of this endpoint has more than 3 slots"):
            with umbel.executor("lab", cores=4) as four:
                four.submit(_where).result(timeout=30)


def test_each_call_sees_the_processors_and_accelerators_of_its_slots(tmp_path: Path) -> None:
    here = sorted(os.sched_getaffinity(0))
    if len(here) < 2:
        pytest.skip("affinity wants two processors")
    with Embedded(tmp_path, workers=0) as umbel:
        lab = umbel.endpoint("lab", slots=2)
        lab.stop()
        with (lab.home / "endpoints" / "lab" / "endpoint.toml").open("a") as file:
            file.write("\n[hardware]\naffinity = true\naccelerators = 2\n")
        umbel.wait_online("lab", "offline")
        lab.start()
        half = len(here) // 2
        shares = {"0": here[:half], "1": here[half : 2 * half]}
        with umbel.executor("lab") as executor:
            found = [executor.submit(_where, 0.3) for _ in range(4)]
            for call in (future.result(timeout=60) for future in found):
                assert call["cpus"] == shares[call["CUDA_VISIBLE_DEVICES"]]
                assert call["HIP_VISIBLE_DEVICES"] == call["CUDA_VISIBLE_DEVICES"]
        with umbel.executor("lab", cores=2) as executor:
            both = executor.submit(_where).result(timeout=60)
        assert both["CUDA_VISIBLE_DEVICES"] == "0,1"
        assert both["cpus"] == here[: 2 * half] and both["OMP_NUM_THREADS"] == str(2 * half)


def test_a_call_that_turns_out_too_wide_ends_with_a_code(tmp_path: Path) -> None:
    with Embedded(tmp_path, workers=0) as umbel:
        lab = umbel.endpoint("lab", slots=4)
        with umbel.executor("lab", cores=3) as executor:
            lab.stop()
            umbel.wait_online("lab", "offline")
            future = executor.submit(_where)
            wait_until(lambda: future.task_id, 10, what="the call is accepted")
            _shrink(lab.home / "endpoints" / "lab" / "endpoint.toml")
            lab.start()
            began = time.monotonic()
            with pytest.raises(TaskError, match="cores") as failed:
                future.result(timeout=60)
            assert failed.value.code == "NOT_ALLOWED" and time.monotonic() - began > 5


def _shrink(file: Path) -> None:
    text = file.read_text()
    assert "\nslots = 4\n" in text
    file.write_text(text.replace("\nslots = 4\n", "\nslots = 2\n"))
