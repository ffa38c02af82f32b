"""Objects that code and state of a callable have in common are one object at the endpoint, too."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.elsewhere import Elsewhere
from umbel.exceptions import SerializeError
from umbel.submit.function_cache import FunctionCache

#: A user's program: expressions of ``i`` make callables whose results depend on the identity of objects.
PROGRAM = """
import collections, functools

MISSING = object()
CONFIG = {"a": 1}
OPAQUE = collections.deque([1])
KEEP = lambda x: x

class Holder:
    def __init__(self, value=MISSING): self.value = value
    def is_empty(self): return self.value is MISSING

class Opaque(Holder):
    def is_empty(self): return self.value is MISSING, len(OPAQUE)

class Body:
    def __init__(self, mass): self.mass = mass
    def others(self): return [body.mass for body in BODIES if body is not self]

BODIES = [Body(number) for number in range(5)]

class Configured:
    def __init__(self): self.config = CONFIG
    def change(self):
        self.config["a"] = 5
        try: return CONFIG["a"]
        finally: self.config["a"] = 1

class Keyed:
    def __init__(self, key=KEEP): self.key = key
    def is_default(self): return self.key is KEEP

def getter(number):
    def get(default=MISSING): return number, default is MISSING
    return get

def counter(number):
    def increase():
        nonlocal number
        number += 1
    def read(): return number
    def both():
        increase()
        return read()
    return both

def counting_class(number):
    class Counter:
        def up(self):
            nonlocal number
            number += 1
    def count():
        Counter().up()
        return number
    return count
"""

EXPRESSIONS = (
    "Holder().is_empty, Holder(i).is_empty, Opaque().is_empty, Opaque(i).is_empty, BODIES[i].others, "
    "Configured().change, Keyed().is_default, Keyed(len).is_default, getter(i), counter(i), "
    "counting_class(i), functools.partial(counter(i)), functools.partial(lambda x: x is CONFIG and 1, CONFIG)"
)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    with Elsewhere(tmp_path_factory.mktemp("elsewhere")) as process:
        yield process


@pytest.fixture
def program() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(PROGRAM, names)
    return names


@pytest.mark.parametrize("makers", [f"[{EXPRESSIONS}]"])
def test_an_object_of_code_and_state_stays_one_object(
    makers: str, program: dict[str, Any], elsewhere: Elsewhere
) -> None:
    cache = FunctionCache()
    for number in range(4):
        program["i"] = number
        for here, sent in zip(eval(makers, program), eval(makers, program)):
            body, payload = cache.bind(sent, (), {})
            assert elsewhere.run(body.data, payload) == here(), (here, number)


def test_objects_of_the_code_do_not_make_a_function_for_each_state(program: dict[str, Any]) -> None:
    cache = FunctionCache()
    assert len({cache.bind(body.others, (), {})[0].data for body in program["BODIES"]}) == 1
    getters = [cache.bind(program["getter"](number), (), {})[0].data for number in range(5)]
    assert len(set(getters[1:])) == 1, "the first one is registered with its state"


def test_a_change_of_an_object_of_code_and_state_is_seen(
    program: dict[str, Any], elsewhere: Elsewhere
) -> None:
    cache = FunctionCache()
    for change in ("", "BODIES[1].mass = 10", "BODIES.append(Body(7))", "BODIES[2] = Body(8)"):
        exec(change, program)
        body, payload = cache.bind(program["BODIES"][0].others, (), {})
        assert elsewhere.run(body.data, payload) == program["BODIES"][0].others()


@pytest.mark.parametrize("first", [True, False])
def test_the_error_names_the_variable_that_cannot_be_serialized(first: bool) -> None:
    def make(handle: Any) -> Any:
        def write_row() -> None:
            handle.write("")

        return write_row

    class Writer:
        def __init__(self, handle: Any):
            self.handle = handle

        def run(self) -> None:
            pass

    class Odd:
        def __init__(self) -> None:
            self.odd_attribute = lock

        def __call__(self) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    lock, cache = threading.Lock(), FunctionCache()
    if not first:
        cache.bind(make(1), (), {})
    for fn, variable in (
        (make(lock), r"'handle' of '\S*make.write_row'"),
        (Writer(lock).run, r"'handle' of '\S*Writer'"),
        (functools.partial(make, lock), "argument 0"),
        (functools.partial(make, Odd()), "argument 0"),
        (functools.partial(make, [make(lock)], handle=lock), "argument 0"),
    ):
        with pytest.raises(SerializeError, match=variable):
            cache.bind(fn, (), {})


def test_the_error_names_an_open_file(tmp_path: Path) -> None:
    with open(tmp_path / "rows", "w", encoding="utf-8") as rows:
        with pytest.raises(SerializeError, match="'rows' of .*<lambda>"):
            FunctionCache().bind(lambda: rows.write("1"), (), {})
