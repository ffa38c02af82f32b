"""Tokens of calls that submit: who gets one, what it opens, and when it ends."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import pytest
from sqlalchemy import select

from federation.db.tables import endpoints, groups, tasks, tokens
from federation.registry import call_tokens, users
from tests.contract.test_api_errors import ID, ROUTES, refused
from tests.support.api import Api, Caller, b64
from tests.support.played import PlayedEndpoint
from umbel.protocol.messages import Bundle, Call, Outcome, Status

#: What the token of a call opens; every other route is FORBIDDEN.
OPEN = {
    ("POST", "/v1/functions"),
    ("GET", "/v1/tasks"),
    ("POST", "/v1/tasks"),
    ("GET", f"/v1/tasks/{ID}"),
    ("GET", f"/v1/tasks/{ID}/log"),
    ("GET", f"/v1/tasks/{ID}/items"),
    ("GET", f"/v1/tasks/{ID}/result"),
    ("POST", f"/v1/tasks/{ID}/cancel"),
    ("POST", "/v1/cancellations"),
    ("GET", f"/v1/groups/{ID}"),
    ("GET", f"/v1/groups/{ID}/results"),
    ("POST", f"/v1/groups/{ID}/cancel"),
    ("PUT", f"/v1/uploads/{ID}"),
}
#: Routes that take no tokens of users at all.
OTHER_BEARERS = {("POST", "/v1/registrations"), ("POST", f"/v1/tasks/{ID}/token")}


class Parent(NamedTuple):
    """A task that runs at an endpoint, and its call, which has a token."""

    endpoint: PlayedEndpoint
    group_id: str
    task_id: str
    bundle: Bundle
    call: Caller

    @property
    def path(self) -> str:
        return f"/v1/tasks/{self.task_id}/token"


def running(api: Api, endpoint: PlayedEndpoint, **options: Any) -> tuple[dict[str, Any], Bundle]:
    """A submission of one task, and the bundle in which it runs."""
    made = api.submit(endpoint.id, b"parent", options=options)
    return made, endpoint.take()


@pytest.fixture
def endpoint(api: Api) -> PlayedEndpoint:
    played = api.endpoint()
    played.beat()
    return played


@pytest.fixture
def parent(api: Api, endpoint: PlayedEndpoint) -> Parent:
    made, bundle = running(api, endpoint, nested=True)
    (task_id,) = made["task_ids"]
    answer = api.caller(endpoint.grant(bundle.id)).ok("POST", f"/v1/tasks/{task_id}/token")
    assert time.time() < answer["expires"] <= time.time() + call_tokens.LIFETIME + 1
    return Parent(endpoint, made["group_id"], task_id, bundle, api.caller(answer["token"]))


def submit(call: Caller, endpoint: PlayedEndpoint, **more: Any) -> Any:
    function = call.ok("POST", "/v1/functions", {"name": "inner", "body": b64(b"inner")})["id"]
    body = {"function_id": function, "endpoint_id": endpoint.id, "payloads": [b64(b"1")], **more}
    return call("POST", "/v1/tasks", body)


def change_tokens(api: Api, condition: Any, **values: Any) -> None:
    with api.fed.database.write() as connection:
        assert connection.execute(tokens.update().where(condition).values(**values)).rowcount


OF_CALLS = tokens.c.task_id.is_not(None)
OF_PEOPLE = tokens.c.label == "test"


def test_a_call_submits_reads_and_cancels(api: Api, parent: Parent) -> None:
    made = submit(parent.call, parent.endpoint).json
    (task,) = made["task_ids"]
    assert parent.endpoint.play() == 1
    results = parent.call.ok("GET", f"/v1/groups/{made['group_id']}/results?after=0")["results"]
    assert [each["task_id"] for each in results] == [task]
    again = submit(parent.call, parent.endpoint, group_id=made["group_id"]).json["task_ids"]
    assert parent.call.ok("POST", "/v1/cancellations", {"task_ids": again}) == {"cancelled": 1}
    listed = parent.call.ok("GET", "/v1/tasks")["items"]
    assert {each["id"] for each in listed} == {task, *again}
    for path in (f"/v1/tasks/{task}", f"/v1/tasks/{task}/result", f"/v1/tasks/{task}/log"):
        parent.call.ok("GET", path)
    parent.call.ok("GET", f"/v1/groups/{made['group_id']}")
    # they belong to the user, who sees them after the call has ended
    assert api.ada.ok("GET", f"/v1/tasks/{task}")["state"] == "succeeded"


def test_a_renewed_token_sees_what_the_first_one_submitted(api: Api, parent: Parent) -> None:
    group = submit(parent.call, parent.endpoint).json["group_id"]
    grant = parent.endpoint.grant(parent.bundle.id)
    renewed = api.caller(api.caller(grant).ok("POST", parent.path)["token"])
    renewed.ok("GET", f"/v1/groups/{group}")


def test_the_scope_is_enforced_on_every_route(parent: Parent) -> None:
    for method, path in ROUTES:
        answer = parent.call(method, path)
        if (method, path) in OTHER_BEARERS:
            refused(answer, 401, "UNAUTHORIZED")
        elif (method, path) not in OPEN:
            refused(answer, 403, "FORBIDDEN")
        else:
            assert answer.status_code not in (401, 403), (method, path, answer.text)


@pytest.mark.parametrize("whose", ["its own", "another one of its user", "one of another user"])
def test_a_call_does_not_see_other_tasks(api: Api, parent: Parent, whose: str) -> None:
    group_id, task_id = parent.group_id, parent.task_id
    if whose != "its own":
        made = api.submit(parent.endpoint.id, b"other")
        group_id, task_id = made["group_id"], made["task_ids"][0]
    if whose == "one of another user":
        bob = users.ensure_user(api.fed, "bob").no
        with api.fed.database.write() as connection:
            for table, id_ in ((tasks, task_id), (groups, group_id)):
                connection.execute(table.update().where(table.c.id == id_).values(user_no=bob))
    for path in ("", "/log", "/items?after=0", "/result"):
        refused(parent.call("GET", f"/v1/tasks/{task_id}{path}"), 404, "TASK_NOT_FOUND")
    refused(parent.call("POST", f"/v1/tasks/{task_id}/cancel"), 404, "TASK_NOT_FOUND")
    for method, path in (("GET", ""), ("GET", "/results?after=0"), ("POST", "/cancel")):
        refused(parent.call(method, f"/v1/groups/{group_id}{path}"), 404, "GROUP_NOT_FOUND")
    assert parent.call.ok("POST", "/v1/cancellations", {"task_ids": [task_id]}) == {"cancelled": 0}
    refused(submit(parent.call, parent.endpoint, group_id=group_id), 404, "GROUP_NOT_FOUND")
    assert parent.call.ok("GET", f"/v1/tasks?group_id={group_id}")["items"] == []


def test_a_call_does_not_use_functions_and_endpoints_of_others(api: Api, parent: Parent) -> None:
    theirs = api.bob.ok("POST", "/v1/functions", {"name": "f", "body": b64(b"theirs")})["id"]
    body = {"function_id": theirs, "endpoint_id": parent.endpoint.id, "payloads": [b64(b"1")]}
    refused(parent.call("POST", "/v1/tasks", body), 404, "FUNCTION_NOT_FOUND")
    bob = users.ensure_user(api.fed, "bob").no
    with api.fed.database.write() as connection:
        connection.execute(endpoints.update().values(user_no=bob))
    refused(submit(parent.call, parent.endpoint), 404, "ENDPOINT_NOT_FOUND")


def test_the_token_ends_with_its_task(parent: Parent) -> None:
    assert submit(parent.call, parent.endpoint).status_code == 202
    parent.endpoint.end(parent.bundle)
    refused(submit_only(parent), 401, "UNAUTHORIZED")


def test_the_token_ends_when_its_task_is_cancelled(api: Api, parent: Parent) -> None:
    api.ada.ok("POST", f"/v1/tasks/{parent.task_id}/cancel")
    refused(submit_only(parent), 401, "UNAUTHORIZED")
    refused(api.caller(parent.endpoint.grant(parent.bundle.id))("POST", parent.path), 401, "UNAUTHORIZED")


def test_the_token_ends_when_its_task_runs_elsewhere(api: Api, parent: Parent) -> None:
    def give_back(bundle: Bundle, call: Call, _: bytes) -> Outcome:
        return Outcome(call.task_id, call.attempt, Status.RETURNED)

    parent.endpoint.end(parent.bundle, give_back)
    again = parent.endpoint.take()
    assert [call.task_id for call in again.calls] == [parent.task_id]
    refused(submit_only(parent), 401, "UNAUTHORIZED")
    refused(api.caller(parent.endpoint.grant(parent.bundle.id))("POST", parent.path), 401, "UNAUTHORIZED")
    api.caller(parent.endpoint.grant(again.id)).ok("POST", parent.path)


def submit_only(parent: Parent) -> Any:
    return parent.call("POST", "/v1/functions", {"name": "inner", "body": b64(b"inner")})


def test_the_token_expires(api: Api, parent: Parent) -> None:
    change_tokens(api, OF_CALLS, expires=time.time() - 1)
    refused(submit_only(parent), 401, "UNAUTHORIZED")
    assert call_tokens.delete_expired(api.fed, time.time()) == 1
    assert call_tokens.delete_expired(api.fed, time.time()) == 0
    api.ada.ok("GET", "/v1/whoami")


def test_a_time_limit_of_the_call_shortens_it(api: Api, endpoint: PlayedEndpoint) -> None:
    made, bundle = running(api, endpoint, nested=True, timeout=60.0)
    answer = api.caller(endpoint.grant(bundle.id)).ok("POST", f"/v1/tasks/{made['task_ids'][0]}/token")
    assert answer["expires"] <= time.time() + 60


def test_a_revoked_user_gets_none_and_keeps_none(api: Api, parent: Parent) -> None:
    # a one-time code that was not used gives no access
    api.ada.ok("POST", "/v1/codes", {"name": "other"})
    change_tokens(api, OF_PEOPLE & (tokens.c.user_no == api.user.no), revoked=time.time())
    refused(submit_only(parent), 401, "UNAUTHORIZED")
    refused(api.caller(parent.endpoint.grant(parent.bundle.id))("POST", parent.path), 403, "FORBIDDEN")


def test_a_revoked_token_of_a_call_ends_alone(api: Api, parent: Parent) -> None:
    change_tokens(api, OF_CALLS, revoked=time.time())
    refused(submit_only(parent), 401, "UNAUTHORIZED")
    api.ada.ok("GET", "/v1/whoami")


@pytest.mark.parametrize("options", [{}, {"nested": False}])
def test_a_submission_that_does_not_ask_for_it_gets_none(
    api: Api, endpoint: PlayedEndpoint, options: dict[str, Any]
) -> None:
    made, bundle = running(api, endpoint, **options)
    answer = api.caller(endpoint.grant(bundle.id))("POST", f"/v1/tasks/{made['task_ids'][0]}/token")
    assert "nested=True" in refused(answer, 403, "FORBIDDEN")["message"]


def test_a_grant_of_another_endpoint_or_bundle_gets_none(api: Api, parent: Parent) -> None:
    other = api.endpoint("other")
    for grant in (other.grant(parent.bundle.id), parent.endpoint.grant(ID)):
        refused(api.caller(grant)("POST", parent.path), 401, "UNAUTHORIZED")
    grant = parent.endpoint.grant(parent.bundle.id)
    forged = grant.replace(parent.endpoint.id, other.id)
    long_ago = parent.endpoint.grant(parent.bundle.id, time.time() - 8 * 86400)
    for bad in (
        forged,
        long_ago,
        grant[:-8],
        grant + "A" * 2000,
        grant[:60] + "é" + grant[61:],
        "umg_.",
        "x",
    ):
        refused(api.caller(bad)("POST", parent.path), 401, "UNAUTHORIZED")
    refused(api.caller(grant)("POST", f"/v1/tasks/{ID}/token"), 401, "UNAUTHORIZED")
    refused(api.caller(api.token)("POST", parent.path), 401, "UNAUTHORIZED")
    refused(api.caller(grant)("GET", "/v1/whoami"), 401, "UNAUTHORIZED")
    with api.fed.database.write() as connection:
        connection.execute(endpoints.update().values(deleted=time.time()))
    refused(api.caller(grant)("POST", parent.path), 401, "UNAUTHORIZED")


def test_only_a_hash_of_the_token_is_stored(api: Api, parent: Parent) -> None:
    token = parent.call.headers["Authorization"].removeprefix("Bearer ")
    with api.fed.database.read() as connection:
        (row,) = connection.execute(select(tokens).where(OF_CALLS))
    assert token not in str(row) and token[4:] not in str(row)
