"""The client's methods for elastic endpoints, and the commands above them."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from umbel import Client
from umbel.api.transport import Request
from umbel.cli import endpoint

SITE = {"address": "ssh://me@login.example", "scheduler": "slurm"}
KEY = {"key": "ssh-ed25519 AAAA", "fingerprint": "ssh-ed25519 SHA256:x"}
SHOWN = {
    "status": "ok",
    "message": "",
    "decision": "+1 block: 3 calls",
    "history": [{"time": 1e9, "decision": "+1 block: 3 calls"}],
    "network": {"wanted": "auto", "way": "relay", "address": "10.0.0.1:7001", "since": 1e9},
    "policy": {"max_blocks": 3, "budget_day": 100, "budget_total": 0},
    "node_hours": {"day": 12.0, "total": 30.0, "reserved": 2.0},
    "bad_nodes": {},
    "blocks": [
        {
            "job_id": "17",
            "state": "failed",
            "nodes": 2,
            "busy": 1,
            "slots": 4,
            "queue_wait": 5.0,
            "age": 60.0,
            "busy_slot_seconds": 40.0,
            "idle_slot_seconds": 10.0,
            "node_hours": 0.5,
            "submitted": 1e9,
            "hosts": ["cn1", "cn2"],
            "reason": "exit code 2",
            "tail": "module: not found",
        }
    ],
}


class Played:
    """A service that answers from a list and keeps what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self._answers = list(answers)

    def send(self, request: Request) -> Any:
        self.asked.append((request.method, request.path, request.body))
        return self._answers.pop(0)

    def close(self) -> None:
        """Nothing is open."""


def _client(played: Played) -> Client:
    return Client(transport=played)  # type: ignore[arg-type]


def test_each_method_asks_its_route() -> None:
    played = Played({"items": [{"name": "hpc"}]}, SHOWN, {"paused": "x"}, {"paused": ""}, {"max_blocks": 5})
    client = _client(played)
    assert client.sites() == [{"name": "hpc"}]
    assert client.get_blocks("a/b")["status"] == "ok"
    client.pause_endpoint("hpc", "maintenance")
    client.resume_endpoint("hpc")
    assert client.change_policy("hpc", max_blocks=5) == {"max_blocks": 5}
    assert played.asked == [
        ("GET", "/v1/sites", None),
        ("GET", "/v1/endpoints/a%2Fb/blocks", None),
        ("POST", "/v1/endpoints/hpc/pause", {"reason": "maintenance"}),
        ("POST", "/v1/endpoints/hpc/resume", None),
        ("PATCH", "/v1/endpoints/hpc/policy", {"max_blocks": 5}),
    ]


def test_an_endpoint_is_added_in_two_steps() -> None:
    played = Played({"host_keys": [KEY]}, {"script": "#!/bin/sh\n"}, {"id": "i", "authorized_keys": "line"})
    client = _client(played)
    assert client.show_host_keys("hpc", SITE) == [KEY]
    assert client.preview_elastic_endpoint("hpc", SITE) == "#!/bin/sh\n"
    made = client.add_elastic_endpoint("hpc", SITE, {"max_blocks": 3}, host_keys=[KEY["key"]])
    assert made["authorized_keys"] == "line"
    first, second, third = (body for _, _, body in played.asked)
    assert "confirm" not in first and second["dry_run"] and third["confirm"]
    assert third["site"]["host_keys"] == [KEY["key"]] and third["policy"] == {"max_blocks": 3}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command of ``umbel endpoint`` against a played service."""

    def command(played: Played, *words: str, input: str = "") -> str:
        monkeypatch.setattr(endpoint, "connect", lambda: _client(played))
        done = CliRunner().invoke(endpoint.endpoint, list(words), input=input)
        assert done.exit_code == 0, done.output
        return done.output

    return command


def test_add_shows_the_fingerprint_before_it_makes_anything(run: Any) -> None:
    played = Played({"host_keys": [KEY]}, {"authorized_keys": "restrict ssh-ed25519 AAAA"})
    words = ["add", SITE["address"], "--name", "hpc", "--scheduler", "slurm", "--set", "max_blocks=3"]
    said = run(played, *words, "--jump", "ssh://me@gate", "--launcher", "srun", input="y\n")
    assert said.index("SHA256:x") < said.index("'hpc'") < said.index("restrict ssh-ed25519 AAAA")
    site = played.asked[1][2]["site"]
    assert (site["jumps"], site["launcher"], site["host_keys"]) == (["ssh://me@gate"], ["srun"], [KEY["key"]])


def test_status_and_blocks_are_readable(run: Any) -> None:
    suspended = {"since": 1e9, "until": 2e9, "reason": "it occupied 7 bytes"}
    status = run(Played(SHOWN, {"suspended": suspended}), "status", "hpc")
    assert "suspended until" in status and "it occupied 7 bytes" in status
    status = run(Played(SHOWN, {"suspended": None}), "status", "hpc")
    assert "suspended" not in status
    assert "relay 10.0.0.1:7001" in status and "auto" in status and "12.00 node-hours today of 100" in status
    assert "+1 block: 3 calls" in status
    blocks = run(Played(SHOWN), "blocks", "hpc", "--output")
    for word in ("17", "failed", "cn1,cn2", "exit code 2", "40", "0.50", "module: not found"):
        assert word in blocks


def test_policy_and_remove(run: Any) -> None:
    played = Played({"max_blocks": 5})
    assert run(played, "policy", "hpc", "max_blocks=5") == "max_blocks = 5\n"
    played = Played(None)
    assert "'umbel endpoint list'" in run(played, "remove", "hpc", "--yes")
    assert played.asked == [("DELETE", "/v1/endpoints/hpc", None)]
