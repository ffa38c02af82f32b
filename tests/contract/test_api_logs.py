"""Logs and summaries over the API: polls hear of news, strangers see nothing."""

from __future__ import annotations

import threading
import time
from typing import Any

from tests.support.api import Api
from tests.support.played import PlayedEndpoint
from tests.support.wait import wait_until
from umbel.protocol.messages import Bundle, Call, Outcome, Status
from umbel.protocol.records import Log, Place


def _say(status: str, log: Log | None, wall: float = 0.5) -> Any:
    def play(bundle: Bundle, call: Call, payload: bytes) -> Outcome:
        place = Place("n1", 17, 0)
        return Outcome(
            call.task_id, call.attempt, status, time.time(), wall, payload=b"r", log=log, place=place
        )

    return play


def _again(endpoint: PlayedEndpoint, bundles: list[Bundle], status: str, log: Log) -> None:
    """Report once more of calls that were taken before."""
    for bundle in bundles:
        outcomes = [_say(status, log)(bundle, call, b"") for call in bundle.calls]
        endpoint._report(outcomes={bundle.id: outcomes})


def _begun(api: Api) -> tuple[PlayedEndpoint, list[Bundle], str]:
    """A task that runs and has written a line."""
    lab = api.endpoint("lab")
    lab.beat()
    task_id = api.submit("lab", b"1")["task_ids"][0]
    taken: list[Bundle] = []

    def play(bundle: Bundle, call: Call, payload: bytes) -> Outcome:
        taken.append(bundle)
        return _say(Status.RUNNING, Log(b"one\n", b"", 4))(bundle, call, payload)

    lab.play(play)
    return lab, taken, task_id


def test_a_log_is_followed(api: Api) -> None:
    lab, taken, task_id = _begun(api)
    path = f"/v1/tasks/{task_id}/log"
    first = api.ada.ok("GET", path)
    assert (first["text"], first["offset"], first["state"], first["ended"]) == ("one\n", 4, "running", False)
    answers: list[Any] = []

    def poll() -> None:
        caller = api.caller(api.token)
        answers.append(caller.ok("GET", f"{path}?offset=4&attempt=1&wait=30"))
        answers.append(caller.ok("GET", f"{path}?offset=8&attempt=1&wait=30"))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    _again(lab, taken, Status.RUNNING, Log(b"one\ntwo\n", b"", 8))
    wait_until(lambda: len(answers) == 1, what="the second line to be heard")
    assert answers[0]["text"] == "two\n"
    # the end is reported without output, too
    _again(lab, taken, Status.SUCCEEDED, Log(b"one\ntwo\n", b"", 8))
    wait_until(lambda: len(answers) == 2, what="the end to be heard")
    assert answers[1]["text"] == "" and answers[1]["ended"] and answers[1]["state"] == "succeeded"
    thread.join(5)


def test_a_log_is_nobody_elses(api: Api) -> None:
    _, _, task_id = _begun(api)
    for caller, status in ((api.bob, 404), (api.anybody, 401)):
        assert caller("GET", f"/v1/tasks/{task_id}/log").status_code == status
        assert caller("GET", f"/v1/tasks/{task_id}/log?wait=20").status_code == status


def test_bad_places_are_refused(api: Api) -> None:
    _, _, task_id = _begun(api)
    for query in ("offset=-1", "offset=x", "wait=31", "wait=-1", "attempt=-2", "from=3"):
        assert api.ada("GET", f"/v1/tasks/{task_id}/log?{query}").status_code == 422, query


def test_the_option_output(api: Api) -> None:
    lab = api.endpoint("lab")
    lab.beat()
    seen: list[int | None] = []
    api.submit("lab", b"1", options={"output": 100})

    def play(bundle: Bundle, call: Call, payload: bytes) -> Outcome:
        seen.append(bundle.options.output)
        return _say(Status.SUCCEEDED, None)(bundle, call, payload)

    lab.play(play)
    assert seen == [100]
    function_id = api.function()
    body = {"function_id": function_id, "endpoint_id": "lab", "payloads": ["MQ=="]}
    for bad in (-1, 2 << 20, "1MiB"):
        assert api.ada("POST", "/v1/tasks", {**body, "options": {"output": bad}}).status_code == 422


def test_a_summary(api: Api) -> None:
    lab = api.endpoint("lab")
    lab.beat()
    task_id = api.submit("lab", b"1")["task_ids"][0]
    lab.play(_say(Status.SUCCEEDED, Log(b"x", b"", 1), wall=0.25))
    function_id = api.function()
    found = api.ada.ok("GET", f"/v1/functions/{function_id}/summary")
    assert found["calls"] == 1
    assert found["quantities"]["wall"] == {"calls": 1, "p50": 0.25, "p95": 0.25, "max": 0.25}
    assert found["quantities"]["output"]["max"] == 1 and found["quantities"]["cpu"] is None
    assert api.bob("GET", f"/v1/functions/{function_id}/summary").status_code == 404
    task = api.ada.ok("GET", f"/v1/tasks/{task_id}")
    assert task["usage"] == {"host": "n1", "pid": 17, "slot": 0} and task["queued"] >= 0
