"""One Flower sees the workers and messages of all endpoints, and never what is in the messages."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.embedded import Embedded
from tests.support.wait import wait_until


def dock(ligand: str) -> str:
    return ligand.lower()


class _Flower:
    def __init__(self, umbel: Embedded):
        self._url = f"http://127.0.0.1:{umbel.flower_port}"
        password = (umbel.home / "keys" / "flower.password").read_text().strip()
        self._login = base64.b64encode(f"umbel:{password}".encode()).decode()

    def get(self, path: str, *, data: bytes | None = None) -> str:
        request = urllib.request.Request(
            self._url + path, data=data, headers={"Authorization": f"Basic {self._login}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()

    def post(self, path: str) -> Any:
        return json.loads(self.get(path, data=b""))

    def tasks(self) -> list[dict[str, Any]]:
        return list(json.loads(self.get("/api/tasks")).values())

    def stranger(self, path: str) -> int:
        try:
            with urllib.request.urlopen(self._url + path, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code


def test_flower_shows_functions_and_numbers_of_calls(tmp_path: Path) -> None:
    with Embedded(tmp_path, workers=1, flower="--flower") as umbel:
        flower = _Flower(umbel)
        lab = umbel.endpoint("lab")
        wait_until(lambda: flower.get("/workers").count('<tr id="') >= 2, 30, what="both workers in Flower")
        for endpoint in ("local", lab.name):
            with umbel.executor(endpoint) as executor:
                # shown even to the first message only when it is sent alone
                assert executor.submit(dock, "XENON").result(timeout=30) == "xenon"
                assert list(executor.map(dock, ["XENON"] * 37, timeout=30)) == ["xenon"] * 37
        # events come a few times a second, and not all at once
        wait_until(lambda: _complete(flower.tasks()), 30, what="all messages of both endpoints")
        tasks = flower.tasks()
        assert {task["name"] for task in tasks} == {"dock"}
        assert {task["kwargs"] for task in tasks} == {"{}"}
        calls = [task["args"].split(" ") for task in tasks]
        assert all(words[1:] in (["call", "of", "dock"], ["calls", "of", "dock"]) for words in calls)
        assert sum(int(words[0]) for words in calls) >= 2 * 38
        everything = flower.get("/api/tasks") + flower.get("/tasks") + flower.get("/workers")
        everything += "".join(flower.get(f"/task/{task['uuid']}") for task in tasks)
        secret = base64.b64encode(b"XENON").decode()[:6]
        assert "XENON" not in everything and "xenon" not in everything and secret not in everything


def test_flower_lets_nobody_in_and_lets_nobody_change_anything(tmp_path: Path) -> None:
    with Embedded(tmp_path, workers=0, flower="--flower") as umbel:
        flower = _Flower(umbel)
        wait_until(lambda: _there(flower), 30, what="Flower")
        for path in ("/", "/workers", "/tasks", "/api/tasks", "/api/workers"):
            assert flower.stranger(path) == 401
        with pytest.raises(urllib.error.HTTPError) as refused:
            flower.get("/api/worker/shutdown/anybody", data=b"")
        with refused.value:
            assert refused.value.code == 403
        assert umbel.service is not None
        password = (umbel.home / "keys" / "flower.password").read_text().strip()
        assert password not in umbel.service.text() and str(umbel.flower_port) in umbel.service.text()


def test_flowers_buttons_change_the_worker_that_is_meant_when_they_are_let(tmp_path: Path) -> None:
    with Embedded(tmp_path, workers=1, flower="--flower-controls") as umbel:
        flower = _Flower(umbel)
        lab = umbel.endpoint("lab.a")
        wait_until(lambda: flower.get("/workers").count('<tr id="') >= 2, 30, what="both workers in Flower")
        shown = json.loads(flower.get("/workers?json=1"))["data"]
        (worker,) = (entry["hostname"] for entry in shown if entry["hostname"].startswith("worker@lab.a."))
        client = umbel.client()

        def slots(endpoint: str = "lab.a") -> int:
            return sum(node["slots"] for node in client.get_endpoint(endpoint)["nodes"])

        before = slots()
        assert flower.post(f"/api/worker/pool/grow/{worker}?n=2")["message"].startswith("Growing")
        wait_until(lambda: slots() == before + 2, 30, what="two slots more")
        flower.post(f"/api/worker/pool/shrink/{worker}?n=1")
        wait_until(lambda: slots() == before + 1, 30, what="one slot less")
        assert slots("local") == 1
        broker = urlsplit(json.loads((lab.folder / "credentials.json").read_text())["broker_url"])
        page = flower.get(f"/worker/{worker}")
        assert "Max concurrency" in page and str(broker.password) not in page

        with umbel.executor("lab.a") as executor:
            future = executor.submit(time.sleep, 300)
            wait_until(lambda: future.running(), 30, what="a call that runs")
            (message,) = (task["uuid"] for task in flower.tasks() if task["state"] == "STARTED")
            flower.post(f"/api/task/revoke/{message}?terminate=true&signal=SIGKILL")
            with pytest.raises(CancelledError):
                future.result(timeout=30)

        flower.post(f"/api/worker/shutdown/{worker}")
        assert lab.service is not None and lab.service.process.wait(30) == 0
        with umbel.executor("local") as executor:
            assert executor.submit(dock, "XENON").result(timeout=30) == "xenon"


def _complete(tasks: list[dict[str, Any]]) -> bool:
    """Both endpoints have shown all 38 calls."""
    if not all(task["state"] == "SUCCESS" and task["args"] for task in tasks):
        return False
    calls = sum(int(task["args"].split(" ")[0]) for task in tasks)
    return len({task["worker"] for task in tasks}) == 2 and calls >= 2 * 38


def _there(flower: _Flower) -> bool:
    try:
        return bool(flower.get("/healthcheck"))
    except OSError:
        return False
