"""Callables that are not plain functions: code is registered once, the state travels with each call."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.elsewhere import Elsewhere
from tests.unit.umbel.submit.test_function_cache import CHANGES
from tests.unit.umbel.submit.test_function_cache import PROGRAM as VERSIONS
from umbel.serialization import codec
from umbel.serialize import load_call, load_function
from umbel.submit import function_cache
from umbel.submit.function_cache import FunctionCache

#: A user's program. ``MAKERS`` makes callables of every kind from a value; all return something when called.
PROGRAM = """
import functools, operator, types

FACTOR = 10

def plain(x, y=1, *, z=2): return ("plain", x, y, z)

class Base:
    def __init__(self, value): self.value = value
    def read(self, x=None): return (type(self).__name__, self.value, x)
    @classmethod
    def made(cls, x): return (cls.__name__, x)
    @staticmethod
    def fixed(x): return ("fixed", x)
    def __call__(self, x=None): return ("called", self.value, x, FACTOR)

class Child(Base):
    def read(self, x=None): return ("child", *super().read(x))
    def items(self, x=None):
        self.value = [self.value]
        return self.value

class Slotted:
    __slots__ = ("value",)
    def __init__(self, value): self.value = value
    def read(self, x=None): return self.value

class Reduced:
    def __init__(self, value): self.value = value
    def __reduce__(self): return Reduced, (self.value,)
    def __call__(self, x=None): return ("reduced", self.value)

def closure(value):
    def inner(x=None): return (value, x, FACTOR)
    return inner

def nested(value):
    def outer(x=None):
        def helper(): return value
        return [helper(), [value for _ in range(2)]]
    return outer

def recursive(value):
    def count(n=3): return [value] if n == 0 else [n, *count(n - 1)]
    return count

def unassigned(value):
    def inner(x=None):
        try:
            return later
        except NameError:
            return ("unassigned", value)
    if value == "never":
        later = 1
    return inner

def decorated(value):
    def decorator(fn):
        @functools.wraps(fn)
        def wrapper(*args, **kwargs): return (value, fn(*args, **kwargs), wrapper.__wrapped__ is fn)
        return wrapper
    @decorator
    def inner(x=None): return ("inner", x)
    return inner

def with_attribute(value):
    def inner(x=None): return 1
    def reader(x=None): return inner.mark
    inner.mark = value
    return reader

def keywords(value):
    def inner(x=None, *, option=value): return (option, x)
    return inner

def annotated(value):
    def inner(x: int = 0) -> "list[int]": return (value, inner.__annotations__)
    return inner

def cached(value):
    @functools.lru_cache(maxsize=None)
    def inner(x=None): return ("cached", value, x)
    return inner

def dispatched(value):
    @functools.singledispatch
    def inner(x=None): return ("object", value)
    @inner.register
    def _(x: int): return ("int", value, x)
    return inner

def generator(value):
    def inner(x=None): yield from [value, x]
    return lambda x=None: list(inner(x))

def package(value):
    import os.path
    return lambda x=None: (os.path.basename("a/b"), value)

MAKERS = {
    "partial": lambda value: functools.partial(plain, value),
    "partial with keywords": lambda value: functools.partial(functools.partial(plain, y=value, z=value), 5),
    "partial of a partial": lambda value: functools.partial(functools.partial(plain, value), z=value),
    "partial of a builtin": lambda value: functools.partial(repr, value),
    "partial of a lambda": lambda value: functools.partial(lambda *args: args, value),
    "partial of a method": lambda value: functools.partial(Base(value).read, x=value),
    "partial of a closure": lambda value: functools.partial(closure(value), value),
    "method": lambda value: Base(value).read,
    "method with super": lambda value: Child(value).read,
    "method that changes its object": lambda value: Child(value).items,
    "method of a class": lambda value: functools.partial(Child.made, value),
    "static method": lambda value: functools.partial(Base.fixed, value),
    "object with slots": lambda value: Slotted(value).read,
    "object with a reducer of its own": lambda value: Reduced(value),
    "callable object": lambda value: Base(value),
    "builtin method": lambda value: [value].copy,
    "lambda with a default": lambda value: lambda x=value: (x, FACTOR),
    "lambda in a container": lambda value: functools.partial(
        lambda fns: [fn() for fn in fns], [lambda: value]
    ),
    "class": lambda value: functools.partial(types.SimpleNamespace, value=value),
    "itemgetter": lambda value: functools.partial(operator.itemgetter(0), [value]),
    "closure": closure, "nested closure": nested, "recursive closure": recursive,
    "unassigned": unassigned,
    "decorated": decorated, "attribute": with_attribute, "keyword default": keywords, "annotated": annotated,
    "cached": cached, "dispatched": lambda value: functools.partial(dispatched(value), 7),
    "generator": generator, "package in a variable": package,
}
"""

KINDS = (
    "partial, partial with keywords, partial of a partial, partial of a builtin, partial of a lambda, "
    "partial of a method, partial of a closure, method, method with super, method that changes its object, "
    "method of a class, static method, object with slots, object with a reducer of its own, callable object, "
    "builtin method, lambda with a default, lambda in a container, class, itemgetter, closure, "
    "nested closure, recursive closure, unassigned, decorated, attribute, keyword default, annotated, "
    "cached, dispatched, generator, package in a variable"
).split(", ")

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3)
    | st.tuples(inner, inner)
    | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    with Elsewhere(tmp_path_factory.mktemp("elsewhere")) as process:
        yield process


@pytest.fixture
def program() -> dict[str, Any]:
    return new_program()


def new_program() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(PROGRAM, names)
    return names


def run(elsewhere: Elsewhere, cache: FunctionCache, fn: Any, *args: Any, **kwargs: Any) -> Any:
    body, payload = cache.bind(fn, args, kwargs)
    return elsewhere.run(body.data, payload)


def test_all_kinds_are_tested(program: dict[str, Any]) -> None:
    assert set(KINDS) == set(program["MAKERS"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_that_of_a_local_call(kind: str, elsewhere: Elsewhere, program: dict[str, Any]) -> None:
    make, cache = program["MAKERS"][kind], FunctionCache()

    @settings(max_examples=15, deadline=None)
    @given(VALUES)
    def check(value: Any) -> None:
        local = repr(make(value)())
        assert repr(run(elsewhere, cache, make(value))) == local

    check()


# the others are registered as they are, with all that they refer to
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"cached", "dispatched", "builtin method"}))
def test_code_is_registered_once(kind: str, program: dict[str, Any]) -> None:
    make, cache = program["MAKERS"][kind], FunctionCache()
    calls = [cache.bind(make([number]), (), {}) for number in range(40)]
    # the first function of a code is registered with its state, in case there is only one
    assert len({body.data for body, _ in calls}) <= 2, kind
    assert len({payload for _, payload in calls}) >= 39
    assert max(len(payload) for _, payload in calls) < 800


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_of_the_code_is_seen(kind: str, elsewhere: Elsewhere, program: dict[str, Any]) -> None:
    cache = FunctionCache()
    for value in ([1], [2], [3]):
        run(elsewhere, cache, program["MAKERS"][kind](value))
    program["FACTOR"] = 70
    program["Base"].read = lambda self, x=None: ("new", self.value)
    program["plain"].__code__ = (lambda x, y=1, *, z=2: ("new", x)).__code__
    fn = program["MAKERS"][kind]([4])
    assert repr(run(elsewhere, cache, fn)) == repr(program["MAKERS"][kind]([4])())


@pytest.mark.parametrize("name", CHANGES)
def test_a_call_never_uses_an_earlier_version(name: str, elsewhere: Elsewhere) -> None:
    expression, change = CHANGES[name]
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(VERSIONS + f"def f(x): return {expression}\n", names)
    exec(
        "class Caller:\n    def __init__(self, fn): self.fn = fn\n    def run(self): return self.fn(1)", names
    )
    cache, caller = FunctionCache(), names["Caller"](names["f"])
    for _ in range(2):
        before = repr(caller.run())
        assert repr(run(elsewhere, cache, caller.run)) == before
    exec(change, names)
    assert repr(caller.run()) != before
    assert repr(run(elsewhere, cache, caller.run)) == repr(caller.run())


def test_functions_in_another_version_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(number: int) -> Callable[[int], Any]:
        def scaled(x: int, by: int = 3) -> Any:
            return x * by

        scaled.__defaults__ = (number,)
        return scaled

    cache = FunctionCache()
    for number in range(3):
        body, payload = cache.bind(make(number), (5,), {})
    monkeypatch.setattr(codec, "PYTHON", (3, 1))
    args, kwargs = load_call(payload)
    assert len(args) == 2 and load_function(body.data)(*args, **kwargs) == 10


def test_equal_arguments_of_a_partial_and_of_a_call_are_one_function(program: dict[str, Any]) -> None:
    cache, plain = FunctionCache(), program["plain"]
    direct = cache.bind(plain, (1, 2), {"z": 3})
    assert cache.bind(functools.partial(plain, 1, z=5), (2,), {"z": 3}) == direct
    assert cache.bind(functools.partial(functools.partial(plain, 1), 2), (), {"z": 3}) == direct


def test_changes_of_an_object_are_seen_and_not_shared(elsewhere: Elsewhere, program: dict[str, Any]) -> None:
    cache, child = FunctionCache(), program["Child"](1)
    for value in (1, 2, 2, 2):
        child.value = value
        # the call changes its copy
        assert run(elsewhere, cache, child.items) == [value]
    assert child.value == 2


def test_a_name_for_people(program: dict[str, Any]) -> None:
    cache = FunctionCache()
    names = {kind: cache.bind(make([1]), (), {})[0].name for kind, make in program["MAKERS"].items()}
    assert names["method"] == "Base.read" and names["callable object"] == "Base"
    assert names["partial"] == "plain" and names["closure"] == "closure.inner"
    assert names["partial of a closure"] == "closure.inner"


def test_callables_of_one_class_with_different_methods_are_different_functions(
    program: dict[str, Any],
) -> None:
    cache, child = FunctionCache(), program["Child"](1)
    bodies = {cache.bind(fn, (), {})[0].name for fn in (child.read, child.items, child)}
    assert bodies == {"Child.read", "Child.items", "Child"}


def test_an_installed_class_needs_no_code(elsewhere: Elsewhere) -> None:
    from fractions import Fraction

    cache = FunctionCache()
    for number in range(3):
        assert run(elsewhere, cache, Fraction(number, 7).limit_denominator, 7) == Fraction(number, 7)
    assert len(cache._bodies) == 1 and b"make_function" not in next(iter(cache._bodies.values())).data


@pytest.fixture
def local_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "besidelab.py").write_text(
        "class Model:\n    def __init__(self, w): self.w = w\n    def run(self, x): return self.w * x\n"
        "def scale(w, x): return w * x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    yield importlib.import_module("besidelab")
    del sys.modules["besidelab"]


def test_code_of_modules_that_are_not_installed_is_registered_once(
    local_package: Any, elsewhere: Elsewhere
) -> None:
    cache = FunctionCache()
    for number in range(5):
        assert run(elsewhere, cache, local_package.Model(number).run, 3) == 3 * number
        assert run(elsewhere, cache, functools.partial(local_package.scale, [number]), 2) == [number] * 2
    assert {body.local for body in cache._bodies.values()} == {("besidelab",)}
    assert len(cache._bodies) == 2


@pytest.fixture
def dumps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was pickled to be registered."""
    seen: list[Any] = []
    pickle_function = function_cache.pickle_function
    monkeypatch.setattr(
        function_cache, "pickle_function", lambda fn: (seen.append(fn), pickle_function(fn))[1]
    )
    return seen


def test_code_is_pickled_once(dumps: list[Any], program: dict[str, Any]) -> None:
    cache = FunctionCache()
    for number in range(100):
        cache.bind(program["Base"](number).read, (), {})
        cache.bind(program["closure"](number), (), {})
    assert len(dumps) == 3  # a method, a closure with its state, and the code of closures


def sent(cache: FunctionCache, fn: Callable[..., Any], calls: int) -> tuple[int, int]:
    """Return the number of functions and the bytes of all payloads of so many calls."""
    found = [cache.bind(fn, (number,), {}) for number in range(calls)]
    return len({body.data for body, _ in found}), sum(len(payload) for _, payload in found)


@pytest.mark.parametrize("kind", ["partial", "method", "callable object", "closure", "lambda with a default"])
@pytest.mark.parametrize("size", [2_000, 60_000, 500_000, 3_000_000])
def test_a_state_is_not_sent_again_and_again(
    kind: str, size: int, program: dict[str, Any], elsewhere: Elsewhere
) -> None:
    state = [bytes([number % 251]) * 100 for number in range(size // 100)]
    cache, fn = FunctionCache(), program["MAKERS"][kind]([*state])
    if kind in ("closure", "lambda with a default"):
        cache.bind(program["MAKERS"][kind](1), (), {})  # the first one is registered with its state
    functions, payloads = sent(cache, fn, 300 if size < 1_000_000 else 8)
    assert functions <= 2
    assert payloads < 2 * function_cache.MAX_SENT + (size if size < function_cache.MAX_STATE else 0)
    body, payload = cache.bind(fn, (5,), {})
    assert len(payload) < 100
    assert repr(elsewhere.run(body.data, payload)) == repr(program["MAKERS"][kind]([*state])(5))


def test_a_state_that_became_part_of_the_function_is_still_compared(
    program: dict[str, Any], elsewhere: Elsewhere
) -> None:
    cache, child = FunctionCache(), program["Child"](["x" * 40_000])
    for _ in range(10):
        result = run(elsewhere, cache, child.items)
        assert len(result) == 1 and result[0] == child.value
    assert len(cache.bind(child.items, (), {})[1]) < 100
    # each call still has a copy of its own, and changes here are seen
    assert len(run(elsewhere, cache, child.items)[0]) == 1
    child.value = ["y" * 40_000]
    assert run(elsewhere, cache, child.items) == [["y" * 40_000]]
    program["Child"].items = lambda self: "new"
    child.value = ["x" * 40_000]
    assert run(elsewhere, cache, child.items) == "new"


def test_state_and_arguments_that_are_too_large_together_are_sent_apart(program: dict[str, Any]) -> None:
    import random

    cache, fn = FunctionCache(), functools.partial(program["plain"], random.Random(1).randbytes(900_000))
    argument = random.Random(2).randbytes(9_900_000)
    body, payload = cache.bind(fn, (argument,), {})
    assert len(payload) < 10 * 1024 * 1024
    assert len(load_function(body.data)(1)[1]) == 900_000


def test_what_cannot_be_split_is_tried_as_a_whole() -> None:
    import threading

    from umbel.exceptions import SerializeError

    with pytest.raises(SerializeError, match="lock"):
        FunctionCache().bind(functools.partial(print, threading.Lock()), (), {})
    with pytest.raises(TypeError, match="not callable"):
        FunctionCache().bind(3, (), {})  # type: ignore[arg-type]


def test_memory_is_bounded(program: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CACHE_SIZE", 20), ("MAX_STATES", 50), ("MAX_STATE", 1_000)):
        monkeypatch.setattr(function_cache, name, value)
    cache = FunctionCache()
    for number in range(100):
        cache.bind(program["closure"](number), (), {})
    for number in range(30):
        cache.bind(program["closure"]([number, "x" * 1_000]), (), {})
    assert len(cache._sent) == 50 and len(cache._stored) == 20
    assert max(len(cache._entries), len(cache._bodies)) <= 20
