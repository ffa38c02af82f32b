"""Partials, methods, closures and lambdas at a real service: their code is registered once."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import umbel as sdk
from tests.support.embedded import Embedded
from umbel import TaskError


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("callables"), workers=2) as embedded:
        yield embedded


def plain(number: int, power: int = 1) -> int:
    return int(number**power)


class Counter:
    def __init__(self, value: int):
        self.value = value

    def up(self, by: int = 0) -> int:
        self.value += 1 + by
        return self.value

    def __call__(self) -> int:
        return self.up()


def closure(number: int) -> Callable[[], int]:
    def add(by: int = 1) -> int:
        return number + by

    return add


def test_a_thousand_different_callables(umbel: Embedded) -> None:
    makers: list[Callable[[int], Callable[[], Any]]] = [
        lambda n: functools.partial(plain, n + 1),
        lambda n: functools.partial(max, [n, n + 1]),
        lambda n: Counter(n).up,
        Counter,
        closure,
        lambda n: lambda n=n: n + 1,
    ]
    with umbel.client() as client, umbel.executor() as executor:
        before = {record["id"] for record in client.functions()}
        callables = [makers[number % len(makers)](number) for number in range(1_200)]
        futures = [executor.submit(fn) for fn in callables]
        assert [future.result(120) for future in futures] == list(range(1, 1_201))
        names = [record["name"] for record in client.functions() if record["id"] not in before]
        # closures and lambdas: the first one with its values, then their code
        assert len(names) <= 8, names
        assert {"plain", "max", "Counter.up", "Counter", "closure.add"} <= set(names)


def test_a_call_has_its_own_copy_of_the_object(umbel: Embedded) -> None:
    counter = Counter(5)
    with umbel.executor() as executor:
        assert [executor.submit(counter.up).result(60) for _ in range(5)] == [6] * 5
        assert counter.value == 5
        counter.value = 10
        assert [future.result(60) for future in [executor.submit(counter) for _ in range(5)]] == [11] * 5


def test_a_model_that_is_used_often_is_sent_once(umbel: Embedded) -> None:
    class Model:
        def __init__(self) -> None:
            self.weights = list(range(100_000))

        def predict(self, number: int) -> int:
            return self.weights[number]

    model = Model()
    with umbel.executor() as executor:
        assert list(executor.map(model.predict, range(300), timeout=120)) == list(range(300))
        model.weights[7] = -1
        assert executor.submit(model.predict, 7).result(60) == -1


def test_environment_limits_and_streams_of_bound_functions(umbel: Embedded) -> None:
    @sdk.function(timeout=2)
    def slow(steps: list[int]) -> Any:
        for step in steps:
            yield step
        while True:
            pass

    async def later(number: int) -> int:
        return number

    with umbel.executor() as executor:
        future = executor.submit(functools.partial(slow, [1, 2]))
        assert list(itertools.islice(future.stream(60), 2)) == [1, 2]
        with pytest.raises(TaskError) as caught:
            future.result(60)
        assert caught.value.code == "TIMEOUT"
        assert [executor.submit(later, number).result(60) for number in range(3)] == [0, 1, 2]
        assert executor.submit(functools.partial(later, 5)).result(60) == 5


def test_a_state_that_cannot_be_loaded_is_no_error_of_the_function(umbel: Embedded) -> None:
    class Broken:
        def __reduce__(self) -> Any:
            return int, ("no number",)

    with umbel.executor() as executor:
        with pytest.raises(TaskError) as caught:
            executor.submit(functools.partial(print, Broken())).result(60)
        assert caught.value.code == "DESERIALIZE_ERROR"


def square(number: int) -> int:
    return number * number


square.__module__ = "__main__"


def test_processes_of_a_method_find_the_functions_of_main(umbel: Embedded) -> None:
    class Pool:
        def run(self) -> list[int]:
            with multiprocessing.get_context("fork").Pool(2) as pool:
                return pool.map(square, range(3))

    Pool.__module__ = Pool.run.__module__ = "__main__"
    with umbel.executor() as executor:
        assert executor.submit(Pool().run).result(60) == [0, 1, 4]


def test_functions_in_turn(umbel: Embedded, tmp_path: Path) -> None:
    functions = []
    for number in range(20):
        names: dict[str, Any] = {}
        exec(f"def f{number}(x): return x, {number}", names)
        functions.append(names[f"f{number}"])
    with umbel.client() as client, umbel.executor(batch_interval=1.0) as executor:
        futures = [executor.submit(functions[number % 20], number) for number in range(400)]
        assert [future.result(60) for future in futures] == [(number, number % 20) for number in range(400)]
        tasks = {task["id"]: task for task in client.tasks(group_id=executor.group_id)}
        shown = {(tasks[str(future.task_id)]["function_name"]) for future in futures}
        assert shown == {f"f{number}" for number in range(20)}
        # at most a few requests
        assert len({task["created"] for task in tasks.values()}) < 10
