"""Submissions whose arguments, and pages whose results, travel as bytes beside the JSON."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.test import TestResponse

from tests.support.api import Api, b64
from tests.support.played import PlayedEndpoint, echo, fail
from umbel.protocol import limits, parcel
from umbel.protocol.messages import Bundle, Call, Outcome


@pytest.fixture
def lab(api: Api) -> PlayedEndpoint:
    return api.endpoint()


def send(api: Api, data: bytes, **more: Any) -> TestResponse:
    return api.ada("POST", "/v1/tasks", data, content_type=parcel.SUBMISSION_TYPE, **more)


def packed(api: Api, *payloads: bytes, **record: Any) -> bytes:
    return parcel.pack({"function_id": api.function(), "endpoint_id": "lab", **record}, payloads)


def test_same_tasks_as_by_json(api: Api, lab: PlayedEndpoint) -> None:
    answer = send(api, packed(api, b"a", b"", b"ccc", options={"priority": 3}))
    assert answer.status_code == 202, answer.text
    task_id, *others = answer.json["task_ids"]
    assert len(others) == 2
    assert api.ada.ok("GET", f"/v1/tasks/{task_id}")["priority"] == 3


def test_idempotent_with_the_json_form(api: Api, lab: PlayedEndpoint) -> None:
    group_id = "11111111-2222-4333-8444-555555555555"
    key = {"Idempotency-Key": "k"}
    first = send(api, packed(api, b"a", group_id=group_id), headers=key)
    body = {"function_id": api.function(), "endpoint_id": "lab", "group_id": group_id, "payloads": ["YQ=="]}
    again = api.ada("POST", "/v1/tasks", body, headers=key)
    assert (first.status_code, first.json) == (202, again.json)


def test_ten_mebibytes_of_arguments_fit(api: Api, lab: PlayedEndpoint) -> None:
    assert send(api, packed(api, bytes(limits.MAX_PAYLOAD_BYTES))).status_code == 202
    answer = send(api, packed(api, bytes(limits.MAX_PAYLOAD_BYTES + 1)))
    assert (answer.status_code, answer.json["code"]) == (413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"UMBP",
        b"UMBP\x00\x00\x00\xff{}",
        b"UMBP\x00\x00\x00\x02[]",
        b"UMBP\x00\x00\x00\x02{}",
        b"UMBP\x00\x00\x00\x02{x",
        b"XXXX\x00\x00\x00\x02{}",
        parcel.pack({"function_id": "x"}, [b"a"])[:-1],
        parcel.pack({"payloads": ["YQ=="]}, [b"a"]),
    ],
)
def test_nonsense_is_a_bad_request(api: Api, data: bytes) -> None:
    answer = send(api, data)
    assert (answer.status_code, answer.json["code"]) == (400, "BAD_REQUEST"), answer.text


def test_only_submissions_may_be_parcels(api: Api) -> None:
    data = parcel.pack({"name": "dock"}, [b"a"])
    answer = api.ada("POST", "/v1/functions", data, content_type=parcel.SUBMISSION_TYPE)
    assert answer.status_code == 415


def test_the_record_is_held_to_the_schema(api: Api, lab: PlayedEndpoint) -> None:
    for data in (packed(api, b"a", colour="green"), packed(api)):
        answer = send(api, data)
        assert (answer.status_code, answer.json["code"]) == (422, "VALIDATION_ERROR")


def test_results_are_the_same_as_in_json(api: Api, lab: PlayedEndpoint) -> None:
    group = api.submit("lab", b"\0one", b"two")["group_id"]
    lab.play()
    path = f"/v1/groups/{api.submit('lab', b'x', group_id=group)['group_id']}/results"
    lab.play(fail)
    plain = api.ada.ok("GET", path)
    answer = api.ada("GET", path, headers={"Accept": f"{parcel.RESULTS_TYPE}, application/json"})
    assert (answer.status_code, answer.mimetype) == (200, parcel.RESULTS_TYPE)
    page = parcel.unpack_results(answer.data)
    assert {row["state"] for row in page["results"]} == {"succeeded", "failed"}
    for row in page["results"]:
        for key in ("result", "exception"):
            row[key] = None if row[key] is None else b64(row[key])
    assert page == plain


def test_errors_stay_json(api: Api) -> None:
    path = "/v1/groups/11111111-2222-4333-8444-555555555555/results"
    answer = api.ada("GET", path, headers={"Accept": parcel.RESULTS_TYPE})
    assert (answer.status_code, answer.json["code"]) == (404, "GROUP_NOT_FOUND")


def test_the_document_names_both_forms(api: Api) -> None:
    document = api.ada.ok("GET", "/openapi.json")
    content = document["paths"]["/v1/groups/{group_id}/results"]["get"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", parcel.RESULTS_TYPE}


def several(api: Api, *counts: int, **record: Any) -> dict[str, Any]:
    functions = [
        {"function_id": api.function(b"f%d" % number), "calls": count} for number, count in enumerate(counts)
    ]
    return {"functions": functions, "endpoint_id": "lab", **record}


def test_calls_of_several_functions(api: Api, lab: PlayedEndpoint) -> None:
    body = several(api, 2, 1, 3)
    data = parcel.pack(body, [b"%d" % number for number in range(6)])
    answer = send(api, data, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 202, answer.text
    tasks = [api.ada.ok("GET", f"/v1/tasks/{task_id}") for task_id in answer.json["task_ids"]]
    wanted = [each["function_id"] for each in body["functions"] for _ in range(each["calls"])]
    assert [task["function_id"] for task in tasks] == wanted
    assert api.ada.ok("GET", f"/v1/groups/{answer.json['group_id']}")["total"] == 6
    assert send(api, data, headers={"Idempotency-Key": "k"}).json == answer.json
    other = parcel.pack(several(api, 3, 1, 2), [b"%d" % number for number in range(6)])
    assert send(api, other, headers={"Idempotency-Key": "k"}).json["code"] == "IDEMPOTENCY_MISMATCH"


def test_calls_of_several_functions_reach_the_endpoint_with_their_arguments(
    api: Api, lab: PlayedEndpoint
) -> None:
    lab.beat()
    body = several(api, 2, 2)
    answer = send(api, parcel.pack(body, [b"a", b"b", b"c", b"d"]))
    assert answer.status_code == 202, answer.text
    found = {}

    def note(bundle: Bundle, call: Call, payload: bytes) -> Outcome:
        found[call.task_id] = bundle.function.id, payload
        return echo(bundle, call, payload)

    assert lab.play(note) == 4
    first, second = (each["function_id"] for each in body["functions"])
    wanted = [(first, b"a"), (first, b"b"), (second, b"c"), (second, b"d")]
    assert [found[task_id] for task_id in answer.json["task_ids"]] == wanted


def test_one_function_in_either_form_is_the_same_request(api: Api, lab: PlayedEndpoint) -> None:
    group_id = "11111111-2222-4333-8444-555555555555"
    key = {"Idempotency-Key": "k"}
    first = send(api, packed(api, b"a", b"b", group_id=group_id), headers=key)
    functions = [{"function_id": api.function(), "calls": 2}]
    record = {"functions": functions, "endpoint_id": "lab", "group_id": group_id}
    again = send(api, parcel.pack(record, [b"a", b"b"]), headers=key)
    assert (first.status_code, first.json) == (202, again.json)


def test_an_unknown_function_rejects_the_whole_submission(api: Api, lab: PlayedEndpoint) -> None:
    body = several(api, 1, 1)
    missing = body["functions"][1]["function_id"] = "11111111-2222-4333-8444-555555555555"
    answer = send(api, parcel.pack(body, [b"a", b"b"]))
    assert (answer.status_code, answer.json["code"]) == (404, "FUNCTION_NOT_FOUND")
    assert answer.json["details"]["function_id"] == missing
    assert api.ada.ok("GET", "/v1/tasks")["items"] == []


@pytest.mark.parametrize(
    "change",
    [
        {"functions": []},
        {"functions": None},
        {"functions": [{"function_id": "x", "calls": 2}]},
        {"functions": [{"function_id": "11111111-2222-4333-8444-555555555555", "calls": 1}]},
        {"functions": [{"function_id": "11111111-2222-4333-8444-555555555555", "calls": 0}]},
        {"functions": [{"function_id": "11111111-2222-4333-8444-555555555555"}]},
        {"functions": [{"function_id": "11111111-2222-4333-8444-555555555555", "calls": 1}] * 257},
        {"function_id": "11111111-2222-4333-8444-555555555555"},
    ],
)
def test_functions_that_do_not_match_the_payloads(
    api: Api, lab: PlayedEndpoint, change: dict[str, Any]
) -> None:
    answer = send(api, parcel.pack({**several(api, 1, 1), **change}, [b"a", b"b"]))
    assert (answer.status_code, answer.json["code"]) == (422, "VALIDATION_ERROR"), answer.text
    neither = {"endpoint_id": "lab", "payloads": ["YQ=="]}
    assert api.ada("POST", "/v1/tasks", neither).status_code == 422
