"""Lists of tasks contain what the filters say, newest first, once, whichever index is used."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from sqlalchemy import select

from federation.db.tables import tasks
from federation.ledger import cancel, task_list
from tests.support.endpoint import FakeEndpoint, FakeNode, outcome
from tests.support.ledger import Ledger
from umbel.protocol.errors import BadRequest
from umbel.protocol.messages import Status
from umbel.protocol.states import TaskState


def _all(ledger: Ledger, limit: int, **filters: Any) -> list[dict[str, Any]]:
    """Read all pages."""
    found, cursor = task_list.tasks_page(ledger.fed, ledger.me, limit=limit, **filters)
    while cursor is not None:
        page, cursor = task_list.tasks_page(ledger.fed, ledger.me, limit=limit, cursor=cursor, **filters)
        assert page
        found += page
    return found


def _some_of_everything(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> tuple[list[str], list[str], str]:
    """Leave tasks in every state; return the functions, the groups and the other endpoint."""
    functions = [ledger.function_id, ledger.function(ledger.me, "fold")]
    away = ledger.endpoint("away")
    groups = []
    for function in functions:
        answer = ledger.submit(lab, 6, function_id=function)
        groups.append(answer["group_id"])
        ledger.clock.forward(10.0)
        first, *more = node.take()
        node.report({first.id: [outcome(first, call) for call in first.calls]})
        if more:
            node.report({more[0].id: [outcome(more[0], call, Status.FAILED) for call in more[0].calls]})
        ledger.collect()
        ledger.submit(away, 12, function_id=function, group_id=answer["group_id"], expires=1000.0)
        ledger.submit(lab, 5, function_id=function)
        for bundle in node.take(2):
            node.report({bundle.id: [outcome(bundle, call, Status.RUNNING) for call in bundle.calls[:1]]})
        ledger.collect()
        queued = ledger.submit(away, 3, function_id=function)
        cancel.cancel_task(ledger.fed, ledger.me, queued["task_ids"][0])
    ledger.submit(away, 2)
    return functions, groups, away.id


@pytest.mark.parametrize("sorted_at_most", [0, 10_000])
def test_every_filter_finds_its_tasks_in_order(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, sorted_at_most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_list, "MAX_SORTED", sorted_at_most)
    functions, groups, away = _some_of_everything(ledger, lab, node)
    with ledger.fed.database.read() as connection:
        rows = connection.execute(
            select(tasks.c.id, tasks.c.created, tasks.c.submission_no, tasks.c.no)
        ).all()
    order = [row.id for row in sorted(rows, key=lambda row: row[1:], reverse=True)]
    every = {task["id"]: task for task in _all(ledger, 1000)}
    assert list(every) == order
    middle = sorted(task["created"] for task in every.values())[len(every) // 2]
    choices: dict[str, list[Any]] = {
        "state": [None, *(state.value for state in TaskState)],
        "function_id": [None, functions[1], "00000000-0000-0000-0000-000000000000"],
        "endpoint_id": [None, away, lab.id],
        "group_id": [None, groups[0]],
        "since": [None, middle],
    }
    for values in itertools.product(*choices.values()):
        filters = {name: value for name, value in zip(choices, values) if value is not None}
        wanted = [each for each in order if _matches(every[each], filters)]
        limit = 3 if len(filters) < 3 else 1000
        assert [task["id"] for task in _all(ledger, limit, **filters)] == wanted, filters
    assert _all(ledger, 7, endpoint_id="away") == _all(ledger, 1000, endpoint_id=away)
    assert _all(ledger, 7, until=middle) == [each for each in every.values() if each["created"] < middle]


def _matches(task: dict[str, Any], filters: dict[str, Any]) -> bool:
    for name, value in filters.items():
        if name == "since":
            if task["created"] < value:
                return False
        elif task[name] != value:
            return False
    return True


def test_another_users_tasks_are_not_listed(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 3)
    bob = ledger.user("bob")
    for filters in ({}, {"state": "queued"}, {"state": "dispatched"}, {"group_id": answer["group_id"]}):
        assert task_list.tasks_page(ledger.fed, bob, **filters) == ([], None)


@pytest.mark.parametrize("cursor", ["", "1f", "x" * 48, "7ff8" + "0" * 44, "0" * 50, "é" * 48])
def test_an_invalid_cursor_is_an_error(ledger: Ledger, cursor: str) -> None:
    with pytest.raises(BadRequest) as caught:
        task_list.tasks_page(ledger.fed, ledger.me, cursor=cursor)
    assert caught.value.code == "BAD_REQUEST"
