"""The soak; SOAK_SECONDS, SOAK_INTERVAL (seconds between strikes) and SOAK_SEED change it.

SOAK_ONLY: strikes with this word in their name, and no others.
"""

from __future__ import annotations

import logging
import os
import random
import re
from contextlib import closing
from pathlib import Path

import pytest

from tests.soak.history import History
from tests.soak.load import JOB_DEADLINE, Load
from tests.soak.machine import Machine
from tests.soak.nemesis import Nemesis
from tests.support.chaos_proxy import ChaosProxy
from tests.support.embedded import Embedded

SECONDS = float(os.environ.get("SOAK_SECONDS", "75"))
INTERVAL = float(os.environ.get("SOAK_INTERVAL", "8"))
ONLY = os.environ.get("SOAK_ONLY", "")


def _say(missing: list[str]) -> None:
    """Say what this soak leaves out; fail where nothing may be missing."""
    for what in missing:
        print(f"**** SKIPPED: {what}", flush=True)
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"CI=true, where nothing may be missing: {'; '.join(missing)}")


@pytest.mark.timeout(SECONDS + JOB_DEADLINE + 120)
def test_promises_are_kept_while_processes_die(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "umbel")  # that the service is away now and then is no news here
    seed = int(os.environ.get("SOAK_SEED") or random.randrange(1_000_000))
    print(f"\nSOAK_SEED={seed}: {SECONDS:g} s, a strike about every {INTERVAL:g} s", flush=True)
    with (
        Machine(tmp_path) as machine,
        Embedded(tmp_path, workers=2, environ=machine.environ) as umbel,
        ChaosProxy(("127.0.0.1", umbel.port)) as link,
    ):
        _say(machine.missing)
        load = Load(umbel, tmp_path, seed, f"http://127.0.0.1:{link.port}")
        nemesis = Nemesis(umbel, link, machine, INTERVAL, seed, load, ONLY)
        nemesis.start()
        with closing(load.log):
            try:
                load.run(SECONDS)
            finally:
                nemesis.stop()
            # once more, from the beginning: nothing that was shown has changed
            client = umbel.client()
            for group_id in load.groups:
                load.look(client, group_id)
    history = History.read(tmp_path / "client.jsonl", tmp_path / "starts")
    print(f"{history.summary()}; {len(nemesis.kills)} strikes", flush=True)
    assert not (faults := history.faults()), "\n".join(faults)
    lines = (tmp_path / "up.out").read_text().splitlines()
    # not the source lines in tracebacks of log lines that a full disk refuses
    exits = [line for line in lines if re.search(r"WARNING \S+ exited \(", line)]
    assert not (own := [line for line in exits if "SIGKILL" not in line]), "\n".join(own)
    assert nemesis.kills, "nothing was killed: the soak was too short to show anything"
    assert len(history.made) > SECONDS, "hardly any work was done"
