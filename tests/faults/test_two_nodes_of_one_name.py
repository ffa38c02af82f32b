"""A copy of an endpoint's directory on the same host is another node: both run their calls undisturbed."""

from __future__ import annotations

import shutil
from concurrent.futures import wait

from tests.support.embedded import Embedded, Service, endpoint_command, environment
from tests.support.wait import wait_until


def _nap(seconds: float) -> str:
    import os
    import time

    time.sleep(seconds)
    return os.environ["UMBEL_TEST_HOME"]


def test_a_copied_directory_is_another_node(umbel: Embedded) -> None:
    first = umbel.endpoint("lab", slots=3, settings='[environment]\nUMBEL_TEST_HOME = "first"\n')
    home = umbel.home.parent / "copy"
    shutil.copytree(first.home, home)
    settings = home / "endpoints" / "lab" / "endpoint.toml"
    settings.write_text(settings.read_text().replace('"first"', '"copy"'))
    copy = Service(endpoint_command("start", "lab"), environment(UMBEL_HOME=str(home)), home / "endpoint.out")
    try:
        client = umbel.client()
        nodes = wait_until(
            lambda: len(found := client.get_endpoint("lab")["nodes"]) == 2 and found, 20, what="two nodes"
        )
        assert len({node["name"] for node in nodes}) == 2
        with umbel.executor("lab", max_attempts=1) as executor:
            # longer than two beats of each
            futures = [executor.submit(_nap, 11.0) for _ in range(6)]
            assert not wait(futures, timeout=60).not_done
            places = {future.result() for future in futures}
        assert places == {"first", "copy"}
        [states] = {
            task["state"]: task["attempt"] for task in client.tasks(group_id=executor.group_id)
        }.items()
        assert states == ("succeeded", 1)
    finally:
        first.stop()
        copy.process.terminate()
        copy.wait()
