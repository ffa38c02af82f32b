"""Every route in the order in which people use them; each answer is the one that its schema documents."""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
from typing import Any

import pytest
from marshmallow import Schema

from federation.standalone.files import PidLock, starting_file
from tests.support.api import Api, b64
from tests.support.played import fail
from umbel.protocol.version import PROTOCOL_VERSION
from webapp.schemas.common import Cancelled, Error
from webapp.schemas.endpoints import Endpoint, EndpointPage, NewEndpoint
from webapp.schemas.functions import Function, FunctionPage
from webapp.schemas.groups import Group, Results
from webapp.schemas.service import Health, Version, Whoami
from webapp.schemas.submissions import Accepted
from webapp.schemas.tasks import Result, Task, TaskPage

FUNCTION = {"name": "dock", "body": b64(b"body"), "source": "def dock(): ...", "description": "docks"}


def conforms(schema: type[Schema], value: Any) -> Any:
    """Hand ``value`` on when it is exactly what ``schema`` documents."""
    assert schema().validate(value) == {}
    return value


def test_functions(api: Api) -> None:
    answer = api.ada("POST", "/v1/functions", FUNCTION)
    made = conforms(Function, answer.json)
    assert answer.status_code == 201
    assert made["sha256"] == hashlib.sha256(b"body").hexdigest()

    again = api.ada("POST", "/v1/functions", FUNCTION)
    assert (again.status_code, again.json) == (200, made)

    assert api.ada.ok("GET", f"/v1/functions/{made['id']}") == made
    page = conforms(FunctionPage, api.ada.ok("GET", "/v1/functions"))
    assert [item["id"] for item in page["items"]] == [made["id"]] and page["next"] is None

    gone = api.ada("DELETE", f"/v1/functions/{made['id']}")
    assert (gone.status_code, gone.data) == (204, b"")
    assert conforms(Error, api.ada("GET", f"/v1/functions/{made['id']}").json)["code"] == "FUNCTION_NOT_FOUND"


def test_endpoints(api: Api) -> None:
    body = {"name": "lab", "public_key": b64(bytes(32)), "metadata": {"room": {"floor": 7}}}
    answer = api.ada("POST", "/v1/endpoints", body)
    made = conforms(NewEndpoint, answer.json)
    assert answer.status_code == 201
    assert base64.b64decode(made["credentials"]["service_key"]) == api.fed.signer.public_key

    del made["credentials"]
    assert conforms(Endpoint, api.ada.ok("GET", "/v1/endpoints/lab")) == made
    assert api.ada.ok("GET", f"/v1/endpoints/{made['id']}") == made
    assert conforms(EndpointPage, api.ada.ok("GET", "/v1/endpoints"))["items"] == [made]

    changed = api.ada.ok("PATCH", "/v1/endpoints/lab", {"description": "in the cellar"})
    assert changed == {**made, "description": "in the cellar"}
    taken = api.ada("POST", "/v1/endpoints", body)
    assert (taken.status_code, taken.json["code"]) == (409, "NAME_TAKEN")
    assert api.ada("DELETE", "/v1/endpoints/lab").status_code == 204
    assert api.ada("GET", "/v1/endpoints/lab").json["code"] == "ENDPOINT_NOT_FOUND"


def test_a_submission_from_end_to_end(api: Api) -> None:
    lab = api.endpoint("lab")
    lab.beat()
    options = {"timeout": 60, "tags": ["night"], "priority": 5, "retry_on": ["OSError"], "retries": 1}
    accepted = conforms(Accepted, api.submit("lab", b"one", b"two", options=options))
    group, (first, second) = accepted["group_id"], accepted["task_ids"]

    task = conforms(Task, api.ada.ok("GET", f"/v1/tasks/{first}"))
    assert (task["state"], task["function_name"], task["tags"]) == ("dispatched", "dock", ["night"])
    assert task["options"] == options
    early = api.ada("GET", f"/v1/tasks/{first}/result")
    assert (early.status_code, early.json["code"]) == (409, "RESULT_NOT_READY")
    assert conforms(Group, api.ada.ok("GET", f"/v1/groups/{group}"))["finished"] is False

    assert lab.play() == 2
    results = conforms(Results, api.ada.ok("GET", f"/v1/groups/{group}/results"))
    assert [(r["task_id"], base64.b64decode(r["result"])) for r in results["results"]] == [
        (first, b"one"),
        (second, b"two"),
    ]
    after = api.ada.ok("GET", f"/v1/groups/{group}/results?after={results['cursor']}")
    assert (after["results"], after["live"], after["cursor"]) == ([], 0, results["cursor"])

    result = conforms(Result, api.ada.ok("GET", f"/v1/tasks/{second}/result"))
    assert (result["state"], result["result"], result["node"]) == ("succeeded", b64(b"two"), "n1")
    ended = conforms(Task, api.ada.ok("GET", f"/v1/tasks/{second}"))
    assert ended["state"] == "succeeded" and ended["wall"] == 0.001 and ended["result_size"] == 3
    done = api.ada.ok("GET", f"/v1/groups/{group}")
    assert (done["total"], done["states"], done["finished"]) == (2, {"succeeded": 2}, True)


def test_a_failed_task_carries_its_code_and_its_exception(api: Api) -> None:
    lab = api.endpoint("lab")
    lab.beat()
    (task,) = api.submit("lab", b"x")["task_ids"]
    lab.play(fail)
    result = conforms(Result, api.ada.ok("GET", f"/v1/tasks/{task}/result"))
    assert (result["state"], result["code"], result["result"]) == ("failed", "TASK_ERROR", None)
    assert result["exception"] == b64(b"{}") and result["message"] == "ValueError: no"


def test_cancelling(api: Api) -> None:
    api.endpoint("lab")
    accepted = api.submit("lab", b"1", b"2", b"3")
    first = accepted["task_ids"][0]
    task = conforms(Task, api.ada.ok("POST", f"/v1/tasks/{first}/cancel"))
    assert task["state"] == "cancelled"
    assert api.ada.ok("POST", f"/v1/tasks/{first}/cancel") == task
    ids = {"task_ids": accepted["task_ids"][:2], "started": False}
    assert conforms(Cancelled, api.ada.ok("POST", "/v1/cancellations", ids)) == {"cancelled": 1}
    answer = conforms(Cancelled, api.ada.ok("POST", f"/v1/groups/{accepted['group_id']}/cancel"))
    assert answer == {"cancelled": 1}
    assert api.ada.ok("GET", f"/v1/groups/{accepted['group_id']}")["states"] == {"cancelled": 3}


def test_a_repeated_submission_is_answered_alike(api: Api) -> None:
    api.endpoint("lab")
    key = {"headers": {"Idempotency-Key": "one"}}
    body = {"function_id": api.function(), "endpoint_id": "lab", "payloads": [b64(b"1")]}
    first = api.ada.ok("POST", "/v1/tasks", body, **key)
    assert api.ada.ok("POST", "/v1/tasks", body, **key) == first
    other = api.ada("POST", "/v1/tasks", {**body, "payloads": [b64(b"2")]}, **key)
    assert (other.status_code, other.json["code"]) == (409, "IDEMPOTENCY_MISMATCH")
    assert len(api.ada.ok("GET", "/v1/tasks")["items"]) == 1


def test_a_group_of_the_clients_own_making(api: Api) -> None:
    api.endpoint("lab")
    group = str(uuid.uuid4())
    missing = api.ada("GET", f"/v1/groups/{group}/results")
    assert (missing.status_code, missing.json["code"]) == (404, "GROUP_NOT_FOUND")
    assert api.submit("lab", b"1", group_id=group)["group_id"] == group
    api.submit("lab", b"2", group_id=group)
    assert api.ada.ok("GET", f"/v1/groups/{group}")["total"] == 2


def test_tasks_are_filtered_and_paged(api: Api) -> None:
    lab, _ = api.endpoint("lab"), api.endpoint("other")
    ids = api.submit("lab", b"1", b"2", b"3")["task_ids"]
    lab.beat()
    lab.play()
    later = api.submit("other", b"4")
    listed = conforms(TaskPage, api.ada.ok("GET", "/v1/tasks"))
    assert [task["id"] for task in listed["items"]] == [*later["task_ids"], *ids[::-1]]

    def found(**filters: Any) -> list[str]:
        return [task["id"] for task in api.ada.ok("GET", "/v1/tasks", query_string=filters)["items"]]

    assert found(state="succeeded") == ids[::-1]
    assert found(endpoint_id="other") == found(group_id=later["group_id"]) == later["task_ids"]
    assert found(function_id=str(uuid.uuid4())) == []
    assert found(since=time.time() + 60) == found(until=time.time() - 60) == []
    assert len(found(since=time.time() - 60, until=time.time() + 60)) == 4

    first = api.ada.ok("GET", "/v1/tasks?limit=3")
    rest = api.ada.ok("GET", f"/v1/tasks?limit=3&cursor={first['next']}")
    assert [task["id"] for task in first["items"] + rest["items"]] == [*later["task_ids"], *ids[::-1]]
    assert rest["next"] is None


def test_the_service_tells_who_it_is(api: Api) -> None:
    assert conforms(Whoami, api.ada.ok("GET", "/v1/whoami")) == {"id": api.user.id, "name": "ada"}
    assert conforms(Version, api.anybody.ok("GET", "/version"))["protocol"] == PROTOCOL_VERSION
    health = conforms(Health, api.anybody.ok("GET", "/health"))
    assert (health["database"], health["broker"]) == ("ok", "ok")
    assert (health["reports_waiting"], health["reports_rejected"]) == (0, 0)


def test_a_service_that_starts_is_not_healthy_yet(api: Api) -> None:
    file = starting_file(api.fed.settings.home)
    file.parent.mkdir(exist_ok=True)
    lock = PidLock(file)
    assert lock.acquire() is None
    answer = api.anybody("GET", "/health")
    assert (answer.status_code, answer.json["status"], answer.json["database"]) == (503, "starting", "ok")
    lock.release()
    assert api.anybody.ok("GET", "/health")["status"] != "starting"


def test_ten_thousand_calls_are_one_request(api: Api) -> None:
    lab = api.endpoint("lab")
    lab.beat()
    payloads = [b"%d" % number for number in range(10_000)]
    accepted = api.submit("lab", *payloads)
    assert len(set(accepted["task_ids"])) == 10_000
    deadline = time.monotonic() + 60
    while lab.play() and time.monotonic() < deadline:
        pass
    seen: dict[str, bytes] = {}
    cursor = 0
    while page := api.ada.ok("GET", f"/v1/groups/{accepted['group_id']}/results?after={cursor}")["results"]:
        seen.update({r["task_id"]: base64.b64decode(r["result"]) for r in page})
        cursor = page[-1]["completion"]
    assert [seen[task] for task in accepted["task_ids"]] == payloads


@pytest.mark.parametrize("too_many", [0, 10_001])
def test_no_other_number_of_calls_is_accepted(api: Api, too_many: int) -> None:
    body = {"function_id": str(uuid.uuid4()), "endpoint_id": "lab", "payloads": [""] * too_many}
    assert api.ada("POST", "/v1/tasks", body).status_code == 422


def test_text_of_every_kind_comes_back_as_it_was(api: Api) -> None:
    metadata = {"nul \0": ["\0", "🌿", "\u2028", 10**30, -0.5, None, True, {"": {}}]}
    body = {"name": "lab", "public_key": b64(bytes(32)), "description": "é\n\t🌿", "metadata": metadata}
    made = api.ada.ok("POST", "/v1/endpoints", body)
    assert (made["metadata"], made["description"]) == (metadata, "é\n\t🌿")
    assert api.ada.ok("GET", "/v1/endpoints/lab")["metadata"] == metadata
