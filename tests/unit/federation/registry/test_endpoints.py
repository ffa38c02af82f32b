from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import insert

from federation.context import Federation
from federation.db import shared
from federation.db.tables import bundles, functions, groups, loads, nodes, submissions, tasks
from federation.ledger import totals
from federation.registry import endpoint_status, endpoints
from federation.registry.users import User
from tests.support.service import RecordingBroker
from umbel.protocol import names
from umbel.protocol.errors import BadRequest, Conflict, NotFound, ServiceUnavailable

KEY = bytes(range(32))


def add(fed: Federation, user: User, name: str = "lab", **more: Any) -> dict[str, Any]:
    return endpoints.register(fed, user, name=name, public_key=KEY, **more)


def add_node(fed: Federation, endpoint: dict[str, Any], user: User, name: str, **values: Any) -> None:
    row = {"name": name, "instance": names.new_id(), "slots": 4, "busy": 1, "live": 1}
    row |= {"seen": time.time(), "since": time.time() - 1, "facts": "{}", **values}
    no = endpoints.find(fed, user, endpoint["id"]).no
    with fed.database.write() as connection:
        connection.execute(insert(nodes).values(endpoint_no=no, **row))


def add_tasks(fed: Federation, endpoint: dict[str, Any], user: User, *states: str) -> None:
    """Tasks of an endpoint with just the columns that its description reads; those sent share one bundle."""
    no = endpoints.find(fed, user, endpoint["id"]).no
    now = time.time()
    with fed.database.write() as connection:
        run = connection.execute
        function_no = run(
            insert(functions)
            .values(
                id=names.new_id(),
                user_no=user.no,
                name="f",
                sha256=names.new_id(),
                size=0,
                body=b"",
                created=now,
            )
            .returning(functions.c.no)
        ).scalar_one()
        group_no = run(
            insert(groups).values(id=names.new_id(), user_no=user.no, created=now).returning(groups.c.no)
        ).scalar_one()
        common = {"group_no": group_no, "user_no": user.no, "endpoint_no": no, "function_no": function_no}
        submission_no = run(
            insert(submissions).values(**common, created=now).returning(submissions.c.no)
        ).scalar_one()
        bundle_no = run(
            insert(bundles)
            .values(id=names.new_id(), endpoint_no=no, function_no=function_no, size=9, open=9, sent=now)
            .returning(bundles.c.no)
        ).scalar_one()
        for state in states:
            sent = state in ("dispatched", "running")
            run(
                insert(tasks).values(
                    **common,
                    id=names.new_id(),
                    submission_no=submission_no,
                    state=state,
                    priority=0,
                    attempt=1,
                    blob_no=1,
                    blob_offset=0,
                    blob_size=0,
                    created=now,
                    bundle_no=bundle_no if sent else None,
                )
            )
        shared.change_loads(connection, totals.differences(connection, no))


def test_registering_gives_credentials_once(fed: Federation, ada: User, broker: RecordingBroker) -> None:
    made = add(fed, ada, description="in the cellar", metadata={"room": 7})

    credentials = made.pop("credentials")
    url = urlsplit(credentials["broker_url"])
    assert credentials["endpoint_id"] == made["id"]
    assert (url.scheme, url.username, url.hostname, url.port) == (
        "redis",
        f"ep-{made['id']}",
        "broker.example",
        6379,
    )
    assert base64.b64decode(credentials["service_key"]) == fed.signer.public_key
    assert endpoints.get(fed, ada, made["id"]) == made
    assert made["metadata"] == {"room": 7} and made["description"] == "in the cellar"

    row = endpoints.find(fed, ada, "lab")
    assert url.password
    assert row.broker_sha256 == hashlib.sha256(url.password.encode()).hexdigest()
    assert row.public_key == KEY
    (command,) = broker.redis.commands
    assert command[:3] == ("ACL", "SETUSER", f"ep-{made['id']}") and f"#{row.broker_sha256}" in command


def test_a_new_endpoint_is_offline_and_empty(fed: Federation, ada: User) -> None:
    made = add(fed, ada)
    shown = {
        key: made[key] for key in ("state", "last_heartbeat", "slots_total", "slots_free", "nodes", "queue")
    }
    assert shown == {
        "state": "offline",
        "last_heartbeat": None,
        "slots_total": 0,
        "slots_free": 0,
        "nodes": [],
        "queue": {"queued": 0, "dispatched": 0, "running": 0},
    }


@pytest.mark.parametrize(
    "name", ["", "-a", "a b", "a" * 64, "a\n", "é", "0" * 8 + "-0000-4000-8000-" + "0" * 12]
)
def test_an_impossible_name_is_refused(
    fed: Federation, ada: User, broker: RecordingBroker, name: str
) -> None:
    with pytest.raises(BadRequest):
        add(fed, ada, name)
    assert broker.redis.commands == []


def test_an_impossible_key_is_refused(fed: Federation, ada: User) -> None:
    with pytest.raises(BadRequest):
        endpoints.register(fed, ada, name="lab", public_key=b"short")


def test_a_name_is_taken_per_user(fed: Federation, ada: User, bob: User, broker: RecordingBroker) -> None:
    first = add(fed, ada)
    with pytest.raises(Conflict) as caught:
        add(fed, ada)
    assert caught.value.code == "NAME_TAKEN"
    # the account created for the rejected endpoint is deleted again
    made, gone = broker.redis.commands[-2:]
    assert gone == ("ACL", "DELUSER", made[2]) and made[2] != f"ep-{first['id']}"
    assert add(fed, bob)["id"] != first["id"]


def test_nothing_is_registered_while_the_broker_is_down(
    fed: Federation, ada: User, broker: RecordingBroker
) -> None:
    broker.redis.down = True
    with pytest.raises(ServiceUnavailable):
        add(fed, ada)
    assert endpoints.page(fed, ada) == ([], None)


def test_names_and_ids_both_find(fed: Federation, ada: User) -> None:
    made = add(fed, ada)
    assert endpoints.find(fed, ada, "lab").id == endpoints.find(fed, ada, made["id"]).id == made["id"]
    with pytest.raises(NotFound) as caught:
        endpoints.find(fed, ada, "nowhere")
    assert caught.value.code == "ENDPOINT_NOT_FOUND"


@pytest.mark.parametrize("act", [endpoints.find, endpoints.get, endpoints.update, endpoints.delete])
def test_what_belongs_to_another_does_not_exist(
    fed: Federation, ada: User, bob: User, act: Callable[..., Any]
) -> None:
    made = add(fed, ada)
    for key in (made["id"], "lab"):
        with pytest.raises(NotFound):
            act(fed, bob, key)


def test_update_changes_what_is_given(fed: Federation, ada: User) -> None:
    add(fed, ada, description="old", metadata={"a": 1})
    assert endpoints.update(fed, ada, "lab", description="new")["metadata"] == {"a": 1}
    changed = endpoints.update(fed, ada, "lab", metadata={})
    assert (changed["description"], changed["metadata"]) == ("new", {})
    assert endpoints.update(fed, ada, "lab") == changed


def test_nodes_make_an_endpoint_online(fed: Federation, ada: User) -> None:
    lab, idle = add(fed, ada), add(fed, ada, "idle")
    now = time.time()
    facts = json.dumps({"python": "3.12.1", "platform": "Linux", "name": "liar", "live": False})
    add_node(fed, lab, ada, "n1", seen=now, facts=facts)
    add_node(fed, lab, ada, "n2", seen=now - 1, slots=8, busy=8)
    add_node(fed, lab, ada, "silent", seen=now - 1000)
    add_node(fed, lab, ada, "left", seen=now, live=0)

    shown = endpoints.get(fed, ada, "lab")
    assert (shown["state"], shown["slots_total"], shown["slots_free"]) == ("online", 12, 3)
    assert shown["last_heartbeat"] == now
    assert (shown["python"], shown["platform"]) == ("3.12.1", "Linux")
    assert [(n["name"], n["live"]) for n in shown["nodes"]] == [
        ("n1", True),
        ("n2", True),
        ("left", False),
        ("silent", False),
    ]
    listed = {item["name"]: item for item in endpoints.page(fed, ada)[0]}
    assert listed["lab"] == shown
    assert listed["idle"]["state"] == "offline" and listed["idle"]["id"] == idle["id"]


def test_a_list_shows_some_nodes_and_counts_all(fed: Federation, ada: User) -> None:
    lab = add(fed, ada)
    for number in range(endpoint_status.MAX_NODES_LISTED + 3):
        add_node(fed, lab, ada, f"n{number}")
    (listed,) = endpoints.page(fed, ada)[0]
    assert len(listed["nodes"]) == endpoint_status.MAX_NODES_LISTED
    assert listed["slots_total"] == 4 * (endpoint_status.MAX_NODES_LISTED + 3)
    assert len(endpoints.get(fed, ada, "lab")["nodes"]) == endpoint_status.MAX_NODES_LISTED + 3


def test_the_queue_is_counted_by_state(fed: Federation, ada: User) -> None:
    lab, idle = add(fed, ada), add(fed, ada, "idle")
    add_tasks(fed, lab, ada, "queued", "queued", "dispatched", "running", "succeeded", "failed")
    add_tasks(fed, idle, ada, "cancelled")
    assert endpoints.get(fed, ada, "lab")["queue"] == {"queued": 2, "dispatched": 1, "running": 1}
    assert endpoints.get(fed, ada, "idle")["queue"] == {"queued": 0, "dispatched": 0, "running": 0}


def test_pages_hold_every_endpoint_once(fed: Federation, ada: User) -> None:
    made = [add(fed, ada, f"e{i}")["id"] for i in range(3)]
    first, cursor = endpoints.page(fed, ada, limit=2)
    rest, end = endpoints.page(fed, ada, limit=2, cursor=cursor)
    assert [item["id"] for item in first + rest] == made[::-1] and end is None


def test_an_endpoint_with_unfinished_tasks_stays(fed: Federation, ada: User) -> None:
    add(fed, ada)
    no = endpoints.find(fed, ada, "lab").no
    with fed.database.write() as connection:
        connection.execute(insert(loads).values(endpoint_no=no, user_no=ada.no, live=1))
    with pytest.raises(Conflict) as caught:
        endpoints.delete(fed, ada, "lab")
    assert caught.value.code == "IN_USE"
    with fed.database.write() as connection:
        connection.execute(loads.update().values(live=0))
    endpoints.delete(fed, ada, "lab")
    assert endpoints.page(fed, ada) == ([], None)


def test_a_deleted_endpoints_account_goes_and_its_name_is_free(
    fed: Federation, ada: User, broker: RecordingBroker
) -> None:
    made = add(fed, ada)
    endpoints.delete(fed, ada, made["id"])
    assert broker.redis.commands[-1] == ("ACL", "DELUSER", f"ep-{made['id']}")
    with pytest.raises(NotFound):
        endpoints.get(fed, ada, "lab")
    assert add(fed, ada)["id"] != made["id"]
