"""Facts of nodes are shown by commands that trust their types; endpoints may send anything."""

from __future__ import annotations

from typing import Any

import pytest

from endpoint_worker.node import inventory
from federation.ledger.node_facts import MAX_GPUS, MAX_TEXT, known_facts


def test_what_a_worker_reports_is_kept() -> None:
    sent = {
        **inventory.of_node(),
        "load": 0.5,
        "queue": 3,
        "clock_ahead": -1.5,
        "way": "a=b:1",
        "problem": "full",
    }
    assert known_facts({**sent, "packages": {"numpy": "2"}}) == {
        k: v for k, v in sent.items() if v is not None
    }


@pytest.mark.parametrize(
    "name, value",
    [
        ("memory", "much"),
        ("memory", -1),
        ("memory", True),
        ("cpus", 1.5),
        ("gpus", "A100"),
        ("gpus", {"a": 1}),
        ("python", ["3.12"]),
        ("problem", 7),
        ("clock_ahead", "now"),
        ("clock_ahead", True),
        ("load", float("nan")),
        ("load", float("inf")),
        ("name", "liar"),
        ("live", False),
        ("anything", {"deep": [1]}),
    ],
)
def test_other_types_and_names_are_left_out(name: str, value: Any) -> None:
    assert known_facts({name: value, "cpus": 4}) == {"cpus": 4}


def test_strings_are_short_and_printable() -> None:
    facts = known_facts({"problem": "\x1b[2Jgone\n" + "x" * 10_000, "gpus": ["\x07", 3] * 100})
    assert facts["problem"].isprintable() and len(facts["problem"]) == MAX_TEXT
    assert len(facts["gpus"]) == MAX_GPUS and all(each.isprintable() for each in facts["gpus"])
