"""What the service stores of the data that nodes report."""

from __future__ import annotations

from typing import Any

from federation.registry import endpoints
from tests.support.endpoint import FakeEndpoint
from tests.support.ledger import Ledger


def _shown(ledger: Ledger) -> dict[str, Any]:
    return endpoints.get(ledger.fed, ledger.me, "lab")


def test_what_is_installed_is_told_once_and_kept(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(beat=False)
    node.beat(packages={"numpy": "2.1.0"}, memory=2**34, gpus=["NVIDIA A100"])
    ledger.collect()
    node.beat(memory=2**34, gpus=["NVIDIA A100"])
    ledger.collect()
    shown = _shown(ledger)
    assert shown["packages"] == {"numpy": "2.1.0"}
    assert (shown["nodes"][0]["memory"], shown["nodes"][0]["gpus"]) == (2**34, ["NVIDIA A100"])
    assert "packages" not in shown["nodes"][0]
    node.restart()
    node.beat(packages={"numpy": "2.2.0"})
    ledger.collect()
    assert _shown(ledger)["packages"] == {"numpy": "2.2.0"}


def test_what_is_too_large_or_no_list_of_packages_is_left_out(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node()
    ledger.collect()
    for nonsense in ({f"package-{number}": "1" * 100 for number in range(500)}, ["numpy"], "numpy", 7):
        node.beat(packages=nonsense)
        ledger.collect()
        assert _shown(ledger)["packages"] == {} and _shown(ledger)["python"] == "3.11.7"
