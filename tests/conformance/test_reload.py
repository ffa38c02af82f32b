"""Programs that are started again take up their group where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.work import DEADLINE, Service, divide, open_gate, square, through_gate
from tests.support.wait import wait_until
from umbel import Executor
from umbel.protocol.errors import NotFound


def test_futures_of_a_group(service: Service, gate: Path) -> None:
    first = service.executor()
    squares = [first.submit(square, n) for n in range(20)]
    bad = first.submit(divide, 1, 0)
    late = first.submit(through_gate, str(gate), "late")
    for future in squares:
        future.result(DEADLINE)
    assert bad.exception(DEADLINE) is not None
    wait_until(lambda: late.task_id, DEADLINE, what="the last task to be accepted")

    with service.client() as client:
        again = Executor.reload(first.group_id, client=client)
        assert {f.task_id for f in again} == {f.task_id for f in [*squares, bad, late]}
        by_id = {future.task_id: future for future in again}
        assert [by_id[f.task_id].result(DEADLINE) for f in squares] == [n * n for n in range(20)]
        with pytest.raises(ZeroDivisionError):
            by_id[bad.task_id].result(DEADLINE)
        assert not by_id[late.task_id].done()
        open_gate(gate)
        assert by_id[late.task_id].result(DEADLINE) == "late"
        assert late.result(DEADLINE) == "late"
        first.shutdown()


def test_in_the_order_of_submission(service: Service) -> None:
    with service.executor() as executor:
        futures = [executor.submit(square, n) for n in range(50)]
    with service.client() as client:
        again = Executor.reload(executor.group_id, client=client)
        assert [future.task_id for future in again] == [future.task_id for future in futures]
        assert [future.result(DEADLINE) for future in again] == [n * n for n in range(50)]


def test_results_can_be_read_any_number_of_times(service: Service) -> None:
    with service.executor() as executor:
        executor.submit(square, 5)
    for _ in range(3):
        with service.client() as client:
            (future,) = Executor.reload(executor.group_id, client=client)
            assert future.result(DEADLINE) == 25


def test_a_group_that_does_not_exist(service: Service) -> None:
    with service.client() as client, pytest.raises(NotFound):
        Executor.reload("00000000-0000-4000-8000-000000000000", client=client)


def test_joining_a_group(service: Service) -> None:
    with service.executor() as first:
        assert first.submit(square, 2).result(DEADLINE) == 4
        with service.executor(group_id=first.group_id) as second:
            assert second.submit(square, 3).result(DEADLINE) == 9
    with service.client() as client:
        assert client.get_group(first.group_id)["total"] == 2


def test_a_group_is_named_by_a_uuid(service: Service) -> None:
    with pytest.raises(ValueError, match="UUID"):
        service.executor(group_id="my group")
