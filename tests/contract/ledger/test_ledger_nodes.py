"""What the service stores of the data that nodes report."""

from __future__ import annotations

import json
from typing import Any

import pytest

from federation.ledger import node_rows
from federation.registry import endpoints
from tests.support.endpoint import FakeEndpoint
from tests.support.ledger import Ledger


def _shown(ledger: Ledger) -> dict[str, Any]:
    return endpoints.get(ledger.fed, ledger.me, "lab")


def test_what_is_installed_is_kept(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(beat=False)
    node.beat(packages={"numpy": "2.1.0"}, memory=2**34, gpus=["NVIDIA A100"])
    ledger.collect()
    node.beat()
    ledger.collect()
    shown = _shown(ledger)
    assert shown["packages"] == {"numpy": "2.1.0"}
    assert (shown["nodes"][0]["memory"], shown["nodes"][0]["gpus"]) == (2**34, ["NVIDIA A100"])
    assert "packages" not in shown["nodes"][0]
    node.restart()
    node.beat(packages={"numpy": "2.2.0"})
    ledger.collect()
    assert _shown(ledger)["packages"] == {"numpy": "2.2.0"}


def test_what_a_node_reports_is_stored_for_this_node_only(ledger: Ledger, lab: FakeEndpoint) -> None:
    other = ledger.endpoint("other")
    nodes = [lab.node("n1"), lab.node("n2"), other.node("n1")]
    for number, node in enumerate(nodes):
        node.beat(packages={"numpy": str(number)}, memory=number)
    ledger.collect()
    nodes[0].beat(packages={"numpy": "9"}, memory=9)
    ledger.collect()
    with ledger.fed.database.read() as connection:
        rows = connection.exec_driver_sql("SELECT endpoint_no, name, packages, facts FROM nodes").all()
    stored = {
        (no, name): (json.loads(packages)["numpy"], json.loads(facts)["memory"])
        for no, name, packages, facts in rows
    }
    assert stored == {(lab.no, "n1"): ("9", 9), (lab.no, "n2"): ("1", 1), (other.no, "n1"): ("2", 2)}


def test_what_is_too_large_or_no_list_of_packages_is_left_out(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node()
    ledger.collect()
    for nonsense in ({f"package-{number}": "1" * 100 for number in range(500)}, ["numpy"], "numpy", 7):
        node.beat(packages=nonsense)
        ledger.collect()
        assert _shown(ledger)["packages"] == {} and _shown(ledger)["python"] == "3.11.7"


def _invent(ledger: Ledger, lab: FakeEndpoint, *names: str) -> None:
    for name in names:
        lab.node(name)
    ledger.collect()


def test_an_endpoint_cannot_invent_any_number_of_nodes(
    ledger: Ledger, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_rows, "MAX_NODES", 4)
    other = ledger.endpoint("other")
    known = lab.node("n0")
    _invent(ledger, lab, "n1", "n2", "n3", "n4", "n5")
    other.node("m0")
    known.beat(memory=7)
    ledger.collect()
    shown = _shown(ledger)["nodes"]
    assert {node["name"] for node in shown} == {"n0", "n1", "n2", "n3"}
    assert [node["memory"] for node in shown if node["name"] == "n0"] == [7], "a known node still reports"
    assert len(ledger.broker.dead_letters.latest(lab.id)) == 2
    assert ledger.broker.dead_letters.latest(other.id) == []


def test_dead_nodes_make_room_for_new_ones(
    ledger: Ledger, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_rows, "MAX_NODES", 3)
    monkeypatch.setattr(node_rows, "EVICTED", 1)
    for name in ("n0", "n1"):
        node = lab.node(name)
        ledger.collect()
        node.goodbye()
        ledger.collect()
        ledger.clock.forward(1)
    _invent(ledger, lab, "n2", "n3")
    assert {node["name"] for node in _shown(ledger)["nodes"]} == {"n1", "n2", "n3"}
    assert ledger.broker.dead_letters.latest(lab.id) == []
