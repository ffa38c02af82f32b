"""Submissions whose arguments, and pages whose results, travel as bytes beside the JSON."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.test import TestResponse

from tests.support.api import Api, b64
from tests.support.played import PlayedEndpoint, fail
from umbel.protocol import limits, parcel


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
