"""Functions are serialized once, and again when anything that they refer to has changed."""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import sys
import types
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.elsewhere import Elsewhere
from umbel.serialize import load_function
from umbel.submit import function_cache
from umbel.submit.function_cache import FunctionCache

FACTOR = 2


def scaled(number: int) -> int:
    return number * FACTOR


def indirect(number: int) -> int:
    return scaled(number) + 1


@pytest.fixture
def dumps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The functions that were pickled."""
    seen: list[Any] = []
    pickle_function = function_cache.pickle_function

    def dump(fn: Callable[..., Any]) -> bytes:
        seen.append(fn)
        return pickle_function(fn)

    monkeypatch.setattr(function_cache, "pickle_function", dump)
    return seen


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    with Elsewhere(tmp_path_factory.mktemp("elsewhere")) as process:
        yield process


#: A user's program: names, then a change of something that ``f`` depends on.
PROGRAM = """
import collections, dataclasses, enum, functools, types
from array import array

def helper(x): return x + 1
def middle(x): return helper(x)
CONF = {"scale": 1, "deep": {"list": [1, 2]}}
ITEMS = [1, 2]
NAMES = {"a"}
PAIR = (1, [1])
NUMBERS = array("d", [1.0])
RAW = bytearray(b"a")
TALLY = collections.Counter(a=1)

class Params:
    scale = 1
    def method(self): return 1
    @classmethod
    def made(cls): return 1
    @property
    def shown(self): return 1

class Child(Params): pass

class Slotted:
    __slots__ = ("value",)

@dataclasses.dataclass
class Point:
    x: int = 1

class Mode(enum.Enum):
    A = 1
    label = property(lambda self: 1)

thing = Params()
thing.value = 1
slotted = Slotted()
slotted.value = 1
point = Point()
space = types.SimpleNamespace(value=1)
bound = Params().method
part = functools.partial(helper, 1)
"""

#: What ``f`` returns, and the change. ``f`` is called with 1.
CHANGES = {
    "helper redefined": ("middle(x)", "def helper(x): return x + 100"),
    "code replaced": ("middle(x)", "helper.__code__ = (lambda x: x + 100).__code__"),
    "own code replaced": ("1", "f.__code__ = (lambda x: 2).__code__"),
    "defaults": ("middle(x)", "def g(x, y=5): return x + y\nhelper = g\nhelper.__defaults__ = (7,)"),
    "own defaults": ("x", "f.__code__ = (lambda x, y=1: y).__code__; f.__defaults__ = (9,)"),
    "function attribute": ("getattr(helper, 'mark', 1)", "helper.mark = 2"),
    "own attribute": ("getattr(f, 'mark', 1)", "f.mark = 2"),
    "global": ("CONF['scale']", "CONF = {'scale': 2}"),
    "global that did not exist": ("extra if x > 9 else globals().get('extra')", "extra = 5"),
    "builtin shadowed": ("len('ab')", "len = lambda value: 9"),
    "dictionary": ("CONF['scale']", "CONF['scale'] = 2"),
    "nested list": ("CONF['deep']['list']", "CONF['deep']['list'].append(3)"),
    "list": ("ITEMS", "ITEMS[0] = 5"),
    "equal value of another type": ("repr(ITEMS)", "ITEMS[0] = True"),
    "list in a tuple": ("PAIR", "PAIR[1].append(2)"),
    "set": ("sorted(NAMES)", "NAMES.add('b')"),
    "array": ("NUMBERS.tolist()", "NUMBERS[0] = 2.0"),
    "bytearray": ("bytes(RAW)", "RAW[0] = 98"),
    "counter": ("TALLY['a']", "TALLY['a'] += 1"),
    "class attribute": ("Params.scale", "Params.scale = 2"),
    "class attribute deleted": ("hasattr(Params, 'scale')", "del Params.scale"),
    "attribute of a base": ("Child().method()", "Params.method = lambda self: 2"),
    "other base": ("Child().scale", "class Other:\n    scale = 7\nChild.__bases__ = (Other,)"),
    "class method": ("Params.made()", "Params.made = classmethod(lambda cls: 2)"),
    "code of a method": ("Params().method()", "Params.method.__code__ = (lambda self: 2).__code__"),
    "property": ("Params().shown", "Params.shown = property(lambda self: 2)"),
    "object": ("thing.value", "thing.value = 2"),
    "class of an object": ("type(thing).__name__", "thing.__class__ = Child"),
    "object with slots": ("slotted.value", "slotted.value = 2"),
    "data class": ("point.x", "point.x = 2"),
    "namespace": ("space.value", "space.value = 2"),
    "bound method": ("bound()", "bound.__func__.__code__ = (lambda self: 2).__code__"),
    "partial": ("part()", "def helper(x): return 7\npart.__setstate__((helper, (1,), {}, {}))"),
    "enumeration": ("Mode.A.label", "Mode.label = property(lambda self: 2)"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_call_never_uses_an_earlier_version(name: str, elsewhere: Elsewhere) -> None:
    expression, change = CHANGES[name]
    program: dict[str, Any] = {"__name__": "__main__"}
    exec(PROGRAM + f"def f(x): return {expression}\n", program)
    cache, f = FunctionCache(), program["f"]
    before = repr(f(1))
    assert repr(elsewhere.call(cache.get(f).data, 1)) == before
    exec(change, program)
    assert repr(f(1)) != before
    assert repr(elsewhere.call(cache.get(f).data, 1)) == repr(f(1))


def test_keyword_defaults_and_variables_of_a_closure(elsewhere: Elsewhere) -> None:
    data = [1]

    def f(x: int, *, y: int = 1) -> Any:
        return data, y

    f.__module__ = "__main__"
    cache = FunctionCache()
    assert elsewhere.call(cache.get(f).data, 1) == ([1], 1)
    f.__kwdefaults__ = {"y": 2}
    data.append(2)
    assert elsewhere.call(cache.get(f).data, 1) == ([1, 2], 2)
    f.__kwdefaults__["y"] = 3  # in place
    data = [5]
    assert elsewhere.call(cache.get(f).data, 1) == ([5], 3)


def test_an_array_changed_in_place(elsewhere: Elsewhere) -> None:
    numpy = pytest.importorskip("numpy")
    weights = numpy.ones(3)

    def f() -> float:
        return float(weights.sum())

    f.__module__ = "__main__"
    cache = FunctionCache()
    assert elsewhere.call(cache.get(f).data) == 3.0
    weights[:] = 10
    assert elsewhere.call(cache.get(f).data) == 30.0


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package beside the user's script."""
    folder = tmp_path / "ownlab"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "core.py").write_text("from . import util\ndef analyse(x): return util.scale(x), util.CONST\n")
    (folder / "util.py").write_text("CONST = 1\ndef scale(x): return 2 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "ownlab"]:
        del sys.modules[name]


def test_a_module_beside_the_script(package: Path, elsewhere: Elsewhere) -> None:
    core = importlib.import_module("ownlab.core")
    util = importlib.import_module("ownlab.util")
    cache, analyse = FunctionCache(), core.analyse
    assert elsewhere.call(cache.get(analyse).data, 3) == (6, 1)
    (package / "util.py").write_text("CONST = 2\ndef scale(x): return 200 * x\n")
    importlib.reload(util)
    assert elsewhere.call(cache.get(analyse).data, 3) == (600, 2)
    util.CONST = 7
    assert elsewhere.call(cache.get(analyse).data, 3) == (600, 7)
    (package / "core.py").write_text("def analyse(x): return 'new'\n")
    importlib.reload(core)
    assert elsewhere.call(cache.get(core.analyse).data, 3) == "new"
    # what autoreload does: the old function object gets the new code
    analyse.__code__ = core.analyse.__code__
    assert elsewhere.call(cache.get(analyse).data, 3) == "new"


def test_calls_of_both_versions_of_a_class_in_one_process(elsewhere: Elsewhere) -> None:
    program: dict[str, Any] = {"__name__": "__main__"}
    exec("class Params: scale = 1\ndef f(p): return p.scale, isinstance(p, Params)", program)
    cache, f, params = FunctionCache(), program["f"], program["Params"]
    old = cache.get(f).data
    assert elsewhere.call(old, params()) == (1, True)
    params.scale = 2
    assert elsewhere.call(cache.get(f).data, params()) == (2, True)
    assert elsewhere.call(old, params()) == (2, False)
    assert elsewhere.call(cache.get(f).data, params()) == (2, True)


def test_a_result_does_not_change_the_class_of_the_program(elsewhere: Elsewhere) -> None:
    program: dict[str, Any] = {"__name__": "__main__"}
    exec("class Params: scale = 1\ndef f(): return Params()", program)
    data = FunctionCache().get(program["f"]).data
    program["Params"].scale = 2
    result = elsewhere.call(data)
    assert type(result) is program["Params"]
    assert (program["Params"].scale, result.scale) == (2, 2)


def test_once(dumps: list[Any]) -> None:
    cache = FunctionCache()
    bodies = {id(cache.get(scaled)) for _ in range(100)}
    assert len(bodies) == 1 and dumps == [scaled]


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Setup:
    """A data class with a default factory."""

    colour: Colour = Colour.RED
    names: list[str] = dataclasses.field(default_factory=list)


SETUP, SPACE, KEPT = Setup(), types.SimpleNamespace(a=[1]), {"a": [Colour.RED], "b": array}


def frequent() -> Any:
    return SETUP, SPACE, KEPT, Colour.RED, functools.partial(scaled, 2)


def test_common_objects_are_compared_without_pickling(dumps: list[Any]) -> None:
    cache = FunctionCache()
    assert cache.get(frequent) is cache.get(frequent)
    assert dumps == [frequent]


@pytest.mark.parametrize("fn", [scaled, indirect])
def test_again_when_a_global_has_another_value(
    dumps: list[Any], fn: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FunctionCache()
    before = load_function(cache.get(fn).data)(10)
    monkeypatch.setitem(fn.__globals__, "FACTOR", 5)
    assert load_function(cache.get(fn).data)(10) - before == 30
    assert len(dumps) == 2


def test_methods_and_partials_each_time_because_their_objects_may_change(dumps: list[Any]) -> None:
    class Counter:
        value = 0

        def read(self) -> int:
            return self.value

    counter, cache = Counter(), FunctionCache()
    for value in (1, 2):
        counter.value = value
        assert load_function(cache.get(counter.read).data)() == value
        assert load_function(cache.get(functools.partial(scaled, value)).data)() == 2 * value
    assert len(dumps) == 4


def test_equal_code_is_one_body() -> None:
    cache = FunctionCache()
    bodies = [cache.get(lambda: 1) for _ in range(5)]
    assert all(body is bodies[0] for body in bodies)


def test_objects_that_are_pickled_each_time_have_one_body_while_they_are_equal() -> None:
    numbers = array("d", [1.0])

    def f() -> Any:
        return numbers

    cache = FunctionCache()
    assert cache.get(f) is cache.get(f)


def test_memory_is_bounded() -> None:
    cache = FunctionCache()
    for number in range(function_cache.CACHE_SIZE + 50):
        cache.get(lambda number=number: number)  # type: ignore[misc]
    assert len(cache._entries) <= function_cache.CACHE_SIZE
    assert len(cache._bodies) <= function_cache.CACHE_SIZE


def test_the_latest_functions_stay(dumps: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function_cache, "CACHE_SIZE", 2)
    cache, functions = FunctionCache(), [scaled, indirect, frequent]
    for each in functions:
        cache.get(each)
    dumps.clear()
    for each in (frequent, indirect, scaled):
        cache.get(each)
    assert dumps == [scaled], "the oldest one"
    partial = functools.partial(scaled, 1)  # pickled each time
    body = cache.get(partial)
    assert cache.get(partial) is body


def test_again_when_other_modules_may_travel(dumps: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """``cloudpickle.register_pickle_by_value``, or an import."""
    cache = FunctionCache()
    cache.get(scaled)
    monkeypatch.setattr(function_cache, "generation", lambda: "another")
    cache.get(scaled)
    cache.get(scaled)
    assert dumps == [scaled] * 2
