"""The routes of elastic endpoints."""

from __future__ import annotations

import time

import pytest

from federation.provision.planning import failures
from federation.provision.planning.model import BlockState
from federation.provision.planning.policy import Policy
from federation.provision.records import blocks, sites
from federation.registry import endpoints
from tests.support.api import Api

SITE = {"address": "ssh://me@login.example", "scheduler": "slurm"}


def _elastic(api: Api) -> int:
    """An elastic endpoint in the registry, with one block; no site is behind it."""
    endpoints.register(api.fed, api.user, name="hpc", public_key=bytes(32))
    no = int(endpoints.find(api.fed, api.user, "hpc").no)
    policy = Policy(max_blocks=3, budget_total=10.0)
    sites.add(api.fed, no, sites.SiteSettings.from_dict(SITE), policy)
    blocks.add(api.fed, no, "umbel-00000000-00000001", policy, time.time())
    blocks.change(api.fed, "umbel-00000000-00000001", state=BlockState.PENDING, job_id="17")
    return no


def test_blocks_are_shown_with_status_and_budget(api: Api) -> None:
    _elastic(api)
    shown = api.ada("GET", "/v1/endpoints/hpc/blocks").json
    assert shown and shown["status"] == "new" and shown["policy"]["max_blocks"] == 3
    assert shown["node_hours"] == {"day": 0.0, "total": 0.0, "reserved": 1.0}
    (block,) = shown["blocks"]
    assert (block["job_id"], block["state"], block["queue_wait"]) == ("17", "pending", None)


def test_pause_resume_and_policy(api: Api) -> None:
    no = _elastic(api)
    assert api.ada("POST", "/v1/endpoints/hpc/pause", {"reason": "maintenance"}).json == {
        "paused": "maintenance"
    }
    assert api.ada("GET", "/v1/endpoints/hpc/blocks").json["status"] == "paused"
    sites.update_planner_state(api.fed, no, lambda state: failures.limit_reached(state, time.time()))
    assert api.ada("POST", "/v1/endpoints/hpc/resume", {}).json == {"paused": ""}
    assert sites.find(api.fed, no).planner_state.retry_at == 0.0
    changed = api.ada("PATCH", "/v1/endpoints/hpc/policy", {"max_blocks": 5}).json
    assert changed and changed["max_blocks"] == 5 and changed["budget_total"] == 10.0
    assert api.ada("PATCH", "/v1/endpoints/hpc/policy", {"min_blocks": 9}).status_code == 422


def test_an_ordinary_endpoint_has_no_blocks(api: Api) -> None:
    endpoints.register(api.fed, api.user, name="lab", public_key=bytes(32))
    assert api.ada("GET", "/v1/endpoints/lab/blocks").status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"address": "local"},
        {"key_file": "/etc/umbel/keys/somebody"},
        {"agent": True},
        {"address": "ssh://me@login.example -oProxyCommand=x"},
        {"hosts": 7},
        {"python": "python3; true"},
        {"folder": "../../etc"},
        {"folder": "f" * 200},
        {"scheduler": "cron"},
        {"directives": ["a\nb"]},
        {"nonsense": 1},
    ],
)
def test_over_the_api_nothing_of_the_service_is_used_and_nothing_odd_is_taken(
    api: Api, change: dict[str, object]
) -> None:
    body = {"name": "x", "site": {**SITE, **change}, "dry_run": True}
    if change.get("address", "").startswith("ssh"):  # type: ignore[attr-defined]
        body["dry_run"] = False
    answer = api.ada("POST", "/v1/sites", body)
    assert answer.status_code == 400, answer.text


def test_a_dry_run_shows_the_script_and_makes_nothing(api: Api) -> None:
    body = {"name": "x", "site": {**SITE, "directives": ["--partition=debug"]}, "dry_run": True}
    script = api.ada("POST", "/v1/sites", body).json["script"]
    assert script.startswith("#!/bin/sh\n#SBATCH ") and "#SBATCH --partition=debug" in script
    assert "exec env UMBEL_HOME=" in script
    assert api.ada("GET", "/v1/endpoints/x").status_code == 404
