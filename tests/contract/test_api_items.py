"""What tasks yield, over the API: polls hear of items, strangers see nothing."""

from __future__ import annotations

import threading
import time
from base64 import b64decode
from typing import Any

from tests.support.api import Api
from tests.support.played import PlayedEndpoint
from tests.support.wait import wait_until
from umbel.protocol.messages import Bundle, Call, Outcome, Status
from umbel.protocol.records import Items


def _outcome(call: Call, status: str, items: Items | None) -> Outcome:
    return Outcome(call.task_id, call.attempt, status, time.time(), 0.5, payload=b"r", items=items)


def _begun(api: Api) -> tuple[PlayedEndpoint, Bundle, str]:
    """A task that runs and has yielded two items."""
    lab = api.endpoint("lab")
    lab.beat()
    task_id = api.submit("lab", b"1")["task_ids"][0]
    taken: list[Bundle] = []

    def play(bundle: Bundle, call: Call, payload: bytes) -> Outcome:
        taken.append(bundle)
        return _outcome(call, Status.RUNNING, Items(0, [b"one", b"two"]))

    lab.play(play)
    return lab, taken[0], task_id


def _tell(lab: PlayedEndpoint, bundle: Bundle, status: str, items: Items | None) -> None:
    lab._report(outcomes={bundle.id: [_outcome(call, status, items) for call in bundle.calls]})


def test_items_are_followed(api: Api) -> None:
    lab, bundle, task_id = _begun(api)
    path = f"/v1/tasks/{task_id}/items"
    first = api.ada.ok("GET", path)
    assert [b64decode(item) for item in first.pop("items")] == [b"one", b"two"]
    assert first == {
        **{"task_id": task_id, "state": "running", "run": 1},
        **{"cursor": 2, "total": None, "ended": False},
    }
    assert len(api.ada.ok("GET", f"{path}?limit=1")["items"]) == 1
    answers: list[Any] = []

    def poll() -> None:
        caller = api.caller(api.token)
        answers.append(caller.ok("GET", f"{path}?after=2&run=1&wait=30"))
        answers.append(caller.ok("GET", f"{path}?after=3&run=1&wait=30"))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    _tell(lab, bundle, Status.RUNNING, Items(2, [b"three"]))
    wait_until(lambda: len(answers) == 1, what="the third item to be heard of")
    assert [b64decode(item) for item in answers[0]["items"]] == [b"three"]
    _tell(lab, bundle, Status.SUCCEEDED, Items(3, [], 3))
    wait_until(lambda: len(answers) == 2, what="the end to be heard of")
    assert (answers[1]["items"], answers[1]["ended"], answers[1]["total"]) == ([], True, 3)
    thread.join(5)


def test_items_are_nobody_elses(api: Api) -> None:
    _, _, task_id = _begun(api)
    for caller, status in ((api.bob, 404), (api.anybody, 401)):
        assert caller("GET", f"/v1/tasks/{task_id}/items").status_code == status
        assert caller("GET", f"/v1/tasks/{task_id}/items?wait=20").status_code == status


def test_bad_places_are_refused(api: Api) -> None:
    _, _, task_id = _begun(api)
    for query in (
        "after=-1",
        "after=100001",
        "run=-1",
        "run=32768",
        "wait=31",
        "limit=0",
        "limit=1001",
        "x=1",
    ):
        assert api.ada("GET", f"/v1/tasks/{task_id}/items?{query}").status_code == 422, query
