"""Futures and condition variables that are cheap to create are those of the standard library otherwise."""

from __future__ import annotations

import threading
from concurrent.futures import Future, TimeoutError, as_completed, wait

import pytest

from umbel.system.light_future import LightCondition, LightFuture


def test_a_light_future_has_the_attributes_of_a_future() -> None:
    """``LightFuture`` does not call ``Future.__init__``: this fails if a new Python adds to it."""
    theirs, ours = vars(Future()), vars(LightFuture())
    assert {name: type(value) for name, value in theirs.items() if name != "_condition"} == {
        name: type(value) for name, value in ours.items() if name != "_condition"
    }
    assert theirs["_state"] == ours["_state"]


def test_a_light_future_wakes_all_that_wait() -> None:
    future, other = LightFuture(), LightFuture()
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(future.result(30))) for _ in range(3)]
    threads.append(
        threading.Thread(target=lambda: found.append(next(as_completed([other, future])).result()))
    )
    for thread in threads:
        thread.start()
    future.set_result(3)
    for thread in threads:
        thread.join(30)
    assert found == [3] * 4
    assert wait([future, other], timeout=0.01).done == {future}
    with pytest.raises(TimeoutError):
        other.result(0.01)


def test_a_light_condition_is_reentrant_and_owned_by_one_thread() -> None:
    condition = LightCondition()
    reached = threading.Event()

    def wake() -> None:
        with condition:
            reached.set()
            condition.notify_all()

    with pytest.raises(RuntimeError):
        condition.notify()
    with condition, condition:
        thread = threading.Thread(target=wake)
        thread.start()
        assert not reached.wait(0.05)
        # releases both levels of the lock, and takes both again
        assert condition.wait_for(reached.is_set, 30)
        assert condition.acquire(timeout=0)
        condition.release()
    thread.join(30)
    with pytest.raises(RuntimeError):
        condition.release()
