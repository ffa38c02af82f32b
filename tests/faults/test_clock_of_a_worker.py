"""A worker whose clock is wrong, or is set while it runs, works: dates come from the broker's clock."""

from __future__ import annotations

import time
from concurrent.futures import wait
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support import faketime
from tests.support.embedded import Embedded, HandEndpoint

pytestmark = pytest.mark.skipif(faketime.LIBRARY is None, reason="needs libfaketime")


def _seconds(when: Any) -> float:
    return float(when) if isinstance(when, (int, float)) else datetime.fromisoformat(str(when)).timestamp()


def test_a_clock_that_is_wrong_and_then_set(umbel: Embedded, tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    offset.write_text("+2h\n")
    variables = faketime.variables(offset)
    # the runners have the same clock
    lines = "".join(f'{name} = "{value}"\n' for name, value in variables.items())
    endpoint = HandEndpoint(umbel, "lab", tmp_path / "lab", 2, f"[environment]\n{lines}")
    endpoint._environ.update(variables)
    endpoint.start()
    try:
        client = umbel.client()
        with umbel.executor("lab", max_attempts=1) as executor:
            for shift in ("+2h", "-10m"):
                offset.write_text(f"{shift}\n")
                futures = [executor.submit(pow, 2, number) for number in range(6)]
                assert not wait(futures, timeout=30).not_done
                assert [future.result() for future in futures] == [2**number for number in range(6)]
                tasks = list(client.tasks(group_id=executor.group_id))
                assert {(task["state"], task["attempt"]) for task in tasks} == {("succeeded", 1)}
                if shift == "+2h":
                    assert all(abs(_seconds(task["started"]) - time.time()) < 120 for task in tasks)
                    node = client.get_endpoint("lab")["nodes"][0]
                    assert abs(node["clock_ahead"] - 7200) < 60
        log = (tmp_path / "lab" / "endpoint.out").read_text()
        assert "clock of this node" in log
    finally:
        endpoint.stop()
