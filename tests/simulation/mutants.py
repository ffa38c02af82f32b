"""Bugs that the simulation must find, injected into product code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from federation.broker.holdings import Holdings
from federation.db import shared
from federation.ledger import apply_reports, completion, requeue, submit
from federation.ledger.task_rows import Task
from federation.services import lost_bundles
from federation.services.lost_bundles import LostBundles
from federation.services.node_watch import NodeWatch

_requeue, _finish, _close = requeue.requeue, completion.finish_tasks, shared.close_bundles


def _uncounted(connection: Any, calls: Sequence[Task], *, counted: bool, **more: Any) -> None:
    _requeue(connection, calls, counted=False, **more)


def _first_call_closes(connection: Any, calls: Sequence[Task]) -> Any:
    return _close(connection, list({call.bundle_no: call for call in calls}.values()))


def _unfenced(self: Holdings, endpoint_id: str, ids: Sequence[str]) -> set[str]:
    return set(ids) - self.sent(endpoint_id)


def _same_epoch(fed: Any, no: int, endpoint_id: str, epoch: int) -> None:
    fed.broker.holdings.begin_epochs([endpoint_id], epoch)


def _gap(connection: Any, group_no: int, count: int) -> tuple[int, str]:
    first, group_id = _next(connection, group_no, count)
    return first + (first > 2), group_id


_next = shared.next_completions

#: What is wrong, and how to make it so.
MUTANTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "a later result replaces the first one": lambda: mock.patch.object(apply_reports, "FINAL", frozenset()),
    "lost attempts do not count": lambda: mock.patch.object(requeue, "requeue", _uncounted),
    "what is fetched is not looked at": lambda: mock.patch.object(
        Holdings, "at_instances", lambda self, endpoint_id, instances: {each: set() for each in instances}
    ),
    "pushes are not fenced": lambda: mock.patch.object(Holdings, "revoke_unsent", _unfenced),
    "a loss of keys is not noticed": lambda: mock.patch.object(lost_bundles, "begin_epoch", _same_epoch),
    "a repeated submission is a new one": lambda: mock.patch.object(
        submit, "_previous_response", lambda *_: None
    ),
    "lost bundles are not sent again": lambda: mock.patch.object(LostBundles, "check", lambda self: None),
    "silent nodes are never lost": lambda: mock.patch.object(NodeWatch, "silent_nodes", lambda *_: []),
    "bundles count their ended calls wrong": lambda: mock.patch.object(
        shared, "close_bundles", _first_call_closes
    ),
    "completion numbers have a gap": lambda: mock.patch.object(shared, "next_completions", _gap),
    "the load is not reduced": lambda: mock.patch.object(shared, "change_loads", lambda *_: None),
}
