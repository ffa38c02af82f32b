"""The provisioner's loop over one endpoint, on a real ledger and broker, at a site in state."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from federation.db.tables import nodes
from federation.provision import api as service
from federation.provision.cleanup import delete_old_blocks
from federation.provision.connection import keys
from federation.provision.planning.model import BlockState
from federation.provision.planning.policy import Policy
from federation.provision.reconciler import Reconciler
from federation.provision.records import blocks, sites
from federation.provision.site import bootstrap
from federation.registry import endpoints
from federation.services.sweeper import Sweeper
from tests.support.api import Api
from tests.support.fake_site import FakeMachine
from umbel.protocol.errors import NotFound

SITE = {"address": "ssh://me@login.example", "scheduler": "slurm", "interval": 30.0}
HOUR = 3600.0


class Loop:
    """An elastic endpoint ``hpc`` of ada, and its reconciler, moved by hand. ``now``: its clock."""

    def __init__(self, api: Api, **policy: Any):
        self.api, self.now = api, time.time()
        self.id = endpoints.register(api.fed, api.user, name="hpc", public_key=bytes(32))["id"]
        self.no = int(endpoints.find(api.fed, api.user, "hpc").no)
        rules = Policy(**{"max_blocks": 3, "min_blocks": 1, "idle_time": 60, "walltime": HOUR, **policy})
        sites.add(api.fed, self.no, sites.SiteSettings.from_dict(SITE), rules)
        keys.site_key(api.fed.settings.home, self.id)
        self.machine = FakeMachine(sites.find(api.fed, self.no))
        machine: Any = self.machine
        self.reconciler = Reconciler(api.fed, machine, Path("/nowhere"), lambda: self.now)

    @property
    def batch(self) -> Any:
        return self.machine.batch

    def turn(self, after: float = 1.0) -> None:
        self.now += after
        self.reconciler.run_once()

    def look(self) -> dict[str, Any]:
        return service.show(self.api.fed, self.api.user, "hpc")

    def rows(self) -> list[Any]:
        with self.api.fed.database.read() as connection:
            return blocks.active(connection, self.no)

    def worker(
        self, block: str, *, host: str = "cn1", seen: float = 0.0, live: int = 1, **facts: Any
    ) -> None:
        """A worker of a block sent a heartbeat ``seen`` seconds ago."""
        now = time.time() - seen
        with self.api.fed.database.write() as connection:
            connection.execute(
                insert(nodes).values(
                    endpoint_no=self.no,
                    name=f"{block}.{host}",
                    instance="i",
                    slots=1,
                    busy=0,
                    facts=json.dumps(facts),
                    since=min(now, time.time()),
                    seen=now,
                    live=live,
                )
            )


@pytest.fixture(autouse=True)
def _prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites have their environment and their credentials."""
    monkeypatch.setattr(bootstrap, "install", lambda machine, wheels: "/home/me/.umbel/env-1")
    monkeypatch.setattr(bootstrap, "has_credentials", lambda machine: True)


@pytest.fixture
def loop(api: Api) -> Loop:
    return Loop(api)


def test_a_block_is_submitted_with_the_ways_to_the_broker_and_they_are_learned(loop: Loop) -> None:
    loop.turn()
    (spec,) = loop.batch.specs
    ways = [spec.command[i + 1] for i, word in enumerate(spec.command) if word == "--way"]
    assert ways == ["direct=", "relay=10.0.0.1:7001"]
    assert loop.look()["network"]["way"] == ""
    loop.worker(spec.name, way="relay=10.0.0.1:7001")
    loop.turn()
    network = loop.look()["network"]
    assert (network["wanted"], network["way"], network["address"]) == ("auto", "relay", "10.0.0.1:7001")
    sites.set_policy(loop.api.fed, loop.api.user, "hpc", {"min_blocks": 2})
    loop.turn()
    ways = [
        loop.batch.specs[1].command[i + 1] for i, w in enumerate(loop.batch.specs[1].command) if w == "--way"
    ]
    assert ways == ["relay=10.0.0.1:7001", "direct="], "what has worked is tried first"
    loop.turn(after=40)
    assert loop.machine.network.kept[-1] == "relay=10.0.0.1:7001", "it is kept alive while there are blocks"


def test_the_scheduler_is_asked_once_per_interval_whatever_the_number_of_blocks(loop: Loop) -> None:
    sites.set_policy(loop.api.fed, loop.api.user, "hpc", {"min_blocks": 3})
    for _ in range(300):
        loop.turn()
    assert len(loop.batch.specs) == 3
    assert loop.batch.asked <= 12


def test_a_slow_scheduler_is_asked_less_often(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    loop.turn()
    ticks = iter(range(0, 10_000_000, 20))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))  # each answer takes 20 s
    before = loop.batch.asked
    for _ in range(200):
        loop.turn()
    assert loop.batch.asked - before <= 3


def test_a_site_that_does_not_answer_is_frozen(loop: Loop) -> None:
    loop.turn()
    loop.machine.shell.away = True
    loop.turn(after=40)
    shown = loop.look()
    assert shown["status"] == "unreachable" and "the login node does not answer" in shown["message"]
    for _ in range(50):
        loop.turn(after=60)
    assert len(loop.rows()) == 1 and len(loop.batch.specs) == 1
    loop.machine.shell.away = False
    loop.turn(after=700)
    assert loop.look()["status"] == "ok"


def test_decisions_are_kept_newest_first_and_not_for_ever(loop: Loop) -> None:
    loop.turn()
    site = sites.find(loop.api.fed, loop.no)
    assert site.decision.startswith("+1 block: ")
    for number in range(sites.HISTORY + 20):
        sites.record_decision(loop.api.fed, sites.find(loop.api.fed, loop.no), f"decision {number}", loop.now)
    sites.record_decision(loop.api.fed, sites.find(loop.api.fed, loop.no), f"decision {number}", loop.now)
    shown = loop.api.ada("GET", "/v1/endpoints/hpc/blocks").json
    assert shown is not None
    texts = [made["decision"] for made in shown["history"]]
    assert len(texts) == sites.HISTORY and texts[0] == f"decision {number}" and texts[1] != texts[0]


def test_a_job_that_ends_without_a_worker_leaves_its_last_words(loop: Loop) -> None:
    loop.turn()
    (row,) = loop.rows()
    loop.machine.shell.files[f"{loop.machine.blocks}/{row.name}.err"] = b"module: command not found\n"
    loop.batch.set(row.job_id, BlockState.FAILED, hosts=("cn1",))
    loop.turn(after=40)
    (block,) = loop.look()["blocks"]
    assert block["state"] == "failed" and "module: command not found" in block["tail"]
    assert block["age"] > 0 and loop.machine.network.invalidated == 1
    assert sites.find(loop.api.fed, loop.no).planner_state.strikes == {"cn1": 1}


def test_a_silent_node_of_a_block_of_several_is_found_and_avoided(api: Api) -> None:
    loop = Loop(api, nodes_per_block=2, min_blocks=2, max_blocks=4, start_timeout=300)
    loop.turn()
    for number, row in enumerate(loop.rows()):
        loop.batch.set(row.job_id, BlockState.RUNNING, hosts=(f"cn{number}", "cn9"), ran=1.0)
        loop.worker(row.name, host=f"cn{number}.cluster", seen=-2 * HOUR)  # it goes on speaking
    loop.turn(after=40)
    loop.turn(after=40)
    assert loop.look()["bad_nodes"] == {}, "its worker may still be starting"
    loop.turn(after=300)
    loop.turn(after=40)
    state = sites.find(api.fed, loop.no).planner_state
    assert state.strikes == {"cn9": 2} and set(loop.look()["bad_nodes"]) == {"cn9"}
    # their end teaches nothing new, and the next blocks go elsewhere
    for row in loop.rows():
        loop.batch.set(row.job_id, BlockState.FAILED)
    loop.turn(after=40)
    assert sites.find(api.fed, loop.no).planner_state.strikes == {"cn9": 2}
    assert len(loop.batch.specs) == 4 and loop.batch.specs[-1].exclude == ("cn9",)


def test_a_node_that_fails_under_a_block_of_several_is_told_from_the_others(api: Api) -> None:
    loop = Loop(api, nodes_per_block=2)
    loop.turn()
    (row,) = loop.rows()
    loop.worker(row.name, host="cn1", seen=70.0)
    loop.worker(row.name, host="cn2")
    loop.batch.set(row.job_id, BlockState.NODE_FAIL, hosts=("cn1", "cn2"), ran=500.0)
    loop.turn(after=40)
    assert sites.find(api.fed, loop.no).planner_state.strikes == {"cn1": 1}


def test_old_blocks_are_forgotten_and_their_cost_is_not(loop: Loop) -> None:
    fed, ended = loop.api.fed, {}
    for number, days in enumerate((40, 20, 15, 1)):
        name = f"umbel-{loop.id[:8]}-0000000{number}"
        blocks.add(fed, loop.no, name, Policy(nodes_per_block=2), time.time() - days * blocks.DAY)
        end = time.time() - days * blocks.DAY
        blocks.change(fed, name, state=BlockState.COMPLETED, started=end - HOUR, ended=end)
        ended[days] = name
    never = f"umbel-{loop.id[:8]}-00000009"
    blocks.add(fed, loop.no, never, Policy(), 0.0)
    blocks.change(fed, never, state=BlockState.FAILED, ended=1.0)
    before = loop.look()["node_hours"]
    assert before["total"] == pytest.approx(8.0)
    assert delete_old_blocks(fed, time.time()) == 4
    assert delete_old_blocks(fed, time.time()) == 0
    assert [block["name"] for block in loop.look()["blocks"]] == [ended[1]]
    assert loop.look()["node_hours"] == pytest.approx(before)
    Sweeper(fed).delete_old()
    # a budget that they have spent stays spent
    sites.set_policy(fed, loop.api.user, "hpc", {"budget_total": 8.5})
    loop.turn()
    assert loop.batch.specs == [] and "budget" in loop.look()["decision"]
    sites.set_policy(fed, loop.api.user, "hpc", {"budget_total": 9.5})
    loop.turn()
    assert len(loop.batch.specs) == 1


def test_active_blocks_are_never_forgotten(loop: Loop) -> None:
    loop.turn()
    (row,) = loop.rows()
    assert delete_old_blocks(loop.api.fed, time.time() + 100 * blocks.DAY) == 0
    assert [left.name for left in loop.rows()] == [row.name]


def test_costs_count_while_a_block_runs(loop: Loop) -> None:
    loop.turn()
    (row,) = loop.rows()
    blocks.change(loop.api.fed, row.name, started=time.time() - HOUR, state=BlockState.RUNNING)
    (block,) = loop.look()["blocks"]
    assert block["node_hours"] == pytest.approx(1.0, abs=0.01)


def test_nodes_of_ended_blocks_are_forgotten_after_a_week(loop: Loop) -> None:
    old, new = "umbel-0123abcd-00000001", "umbel-0123abcd-00000002"
    loop.worker(old, seen=8 * blocks.DAY, live=0)
    loop.worker(new, seen=1 * blocks.DAY, live=0)
    assert blocks.delete_old_nodes(loop.api.fed, loop.no, time.time()) == 1
    with loop.api.fed.database.read() as connection:
        assert list(connection.execute(select(nodes.c.name)).scalars()) == [f"{new}.cn1"]


def test_deleting_an_endpoint_cancels_its_jobs_and_cleans_its_site(loop: Loop) -> None:
    loop.turn()
    (row,) = loop.rows()
    loop.batch.set(row.job_id, BlockState.RUNNING)
    loop.batch.stubborn = True
    assert loop.api.ada("DELETE", "/v1/endpoints/hpc").status_code == 204
    assert _listed(loop)["status"] == "removing"
    loop.turn()
    assert loop.batch.cancelled == [row.job_id]
    assert "1 of its jobs" in _listed(loop)["message"]
    # the login node is away for a while: it goes on trying, and says so
    loop.machine.shell.away = True
    loop.turn(after=10)
    assert loop.batch.asked == 2, "and the batch system is asked no more often than else"
    loop.turn(after=30)
    assert "the login node does not answer" in _listed(loop)["message"]
    loop.machine.shell.away = False
    loop.batch.set(row.job_id, BlockState.CANCELLED)
    removals = _count(loop.machine.shell.ran, lambda words: "rm -rf" in " ".join(words))
    assert removals == 0, "nothing is deleted under a job that runs"
    loop.turn(after=120)
    assert _count(loop.machine.shell.ran, lambda words: "rm -rf" in " ".join(words)) == 1
    assert loop.api.ada("GET", "/v1/sites").json == {"items": []}
    assert not keys.key_file(loop.api.fed.settings.home, loop.id).exists()
    with pytest.raises(NotFound):
        loop.turn()


def test_nothing_is_submitted_for_a_deleted_endpoint(loop: Loop) -> None:
    loop.api.ada("DELETE", "/v1/endpoints/hpc")
    loop.turn()
    assert loop.batch.specs == []


def test_a_site_that_never_let_us_in_is_given_up(loop: Loop) -> None:
    loop.machine.shell.away = True
    loop.turn()
    loop.api.ada("DELETE", "/v1/endpoints/hpc")
    loop.turn(after=60)
    assert _listed(loop)["status"] == "removing"
    loop.turn(after=2 * HOUR)
    assert loop.api.ada("GET", "/v1/sites").json == {"items": []}


def test_a_paused_endpoint_says_why_and_goes_on_when_resumed(loop: Loop) -> None:
    sites.pause(loop.api.fed, loop.api.user, "hpc", "maintenance on Monday")
    loop.turn()
    assert loop.batch.specs == []
    shown = loop.look()
    assert (shown["status"], shown["message"]) == ("paused", "maintenance on Monday")
    assert shown["decision"] == "paused: maintenance on Monday"
    sites.resume(loop.api.fed, loop.api.user, "hpc")
    loop.turn()
    assert len(loop.batch.specs) == 1


def _listed(loop: Loop) -> dict[str, Any]:
    (item,) = loop.api.ada("GET", "/v1/sites").json["items"]  # type: ignore[index]
    return dict(item)


def _count(ran: list[list[str]], matches: Callable[[list[str]], bool]) -> int:
    return sum(map(matches, ran))
