"""A package that both sides have travels by name, if it is the same on both."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.elsewhere import Elsewhere
from umbel.serialization import packages
from umbel.serialize import dump_function, dump_result, load_result
from umbel.submit.function_cache import FunctionCache

CORE = """
import dataclasses, enum, functools
LIMIT = 1
CONF = {"scale": 1}
_cache = {}
class Mode(enum.Enum): FAST = 1; SLOW = 2
@dataclasses.dataclass
class Config:
    mode: Mode = Mode.FAST
    n: int = 3
    def double(self): return 2 * self.n
class LabError(Exception):
    def __init__(self, a, b): super().__init__(a, b); self.a = a
"""
OPS = """
import functools
from . import core
from .core import Config, Mode, LabError
def top(cfg): return isinstance(cfg, Config), cfg.mode is Mode.FAST
def lazy(cfg):
    from editlab.core import Config, Mode
    return isinstance(cfg, Config), cfg.mode is Mode.FAST
def via_module(cfg): return isinstance(cfg, core.Config), cfg.mode == core.Mode.FAST
def make(): return Config(Mode.SLOW, 5)
def lazy_make():
    from editlab.core import Config
    return Config()
def fails(): raise LabError(1, "b")
def state():
    from editlab import core
    return core.LIMIT, core.CONF, Config().double()
@functools.cache
def cached(cfg_n): return cfg_n, core.LIMIT
def loaded():
    import sys
    return "editlab.core" in sys.modules
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A package as ``pip install --editable`` makes it importable, older than this process."""
    write(tmp_path / "here", CORE)
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    importlib.invalidate_caches()
    packages._digests.clear(), packages._verified.clear()
    yield importlib.import_module("editlab.ops")
    for name in [name for name in sys.modules if name.partition(".")[0] == "editlab"]:
        del sys.modules[name]
    packages._digests.clear(), packages._verified.clear()


def write(root: Path, core: str) -> None:
    folder = root / "editlab"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("__init__.py", ""), ("core.py", core), ("ops.py", OPS)):
        (folder / name).write_text(text)
        os.utime(folder / name, (1e9, 1e9))


@pytest.fixture
def same(lab: Any, tmp_path: Path) -> Iterator[Elsewhere]:
    write(tmp_path / "there", CORE)
    yield from process(tmp_path)


@pytest.fixture
def other(lab: Any, tmp_path: Path) -> Iterator[Elsewhere]:
    write(tmp_path / "there", CORE + "CHANGED = 1\n")
    yield from process(tmp_path)


def process(tmp_path: Path) -> Iterator[Elsewhere]:
    from tests.support.elsewhere import ROOT

    path = os.pathsep.join([str(ROOT / "sdk"), str(tmp_path / "there")])
    with Elsewhere(tmp_path, {"PYTHONPATH": path}) as running:
        yield running


def test_the_same_package_is_used_on_both_sides(lab: Any, same: Elsewhere) -> None:
    core = sys.modules["editlab.core"]
    cfg = core.Config()  # type: ignore[attr-defined]
    for fn in (lab.top, lab.lazy, lab.via_module):
        assert same.call(dump_function(fn).data, cfg) == (True, True)
    for fn in (lab.make, lab.lazy_make):
        result = same.call(dump_function(fn).data)
        assert type(result) is core.Config  # type: ignore[attr-defined]
        assert result.mode in (core.Mode.FAST, core.Mode.SLOW)  # type: ignore[attr-defined]
    with pytest.raises(core.LabError):  # type: ignore[attr-defined]
        same.call(dump_function(lab.fails).data)
    assert same.call(dump_function(lab.cached).data, 2) == (2, 1)
    assert same.call(dump_function(lab.loaded).data)
    assert dump_function(lab.top).local == ("editlab",)


def test_another_version_of_it_is_not_used(lab: Any, other: Elsewhere) -> None:
    core: Any = sys.modules["editlab.core"]
    for fn in (lab.top, lab.via_module):
        assert other.call(dump_function(fn).data, core.Config()) == (True, True)
    assert type(other.call(dump_function(lab.make).data)) is core.Config
    assert not other.call(dump_function(lab.loaded).data)


CHANGES = {
    "constant": "core.LIMIT = 7",
    "dictionary in place": "core.CONF['scale'] = 7",
    "method": "core.Config.double = lambda self: 7",
    "code of a method": "core.Config.double.__code__ = (lambda self: 7).__code__",
    "default of a class": "core.Config.n = 7; core.Config.__init__.__defaults__ = (core.Mode.FAST, 7)",
}


@pytest.mark.parametrize("first", [True, False], ids=["submitted before", "never submitted before"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_patched_package_travels_as_code(name: str, first: bool, lab: Any, same: Elsewhere) -> None:
    cache = FunctionCache()
    if first:
        assert same.call(cache.get(lab.state).data) == (1, {"scale": 1}, 6)
    exec(CHANGES[name], {"core": sys.modules["editlab.core"], "__name__": "__main__"})
    assert same.call(cache.get(lab.state).data) == lab.state() != (1, {"scale": 1}, 6)


def test_an_edited_package_travels_as_code(lab: Any, same: Elsewhere, tmp_path: Path) -> None:
    assert same.call(dump_function(lab.state).data) == (1, {"scale": 1}, 6)
    (tmp_path / "here/editlab/core.py").write_text(CORE.replace("LIMIT = 1", "LIMIT = 9"))
    # not reloaded: what is loaded is still the same
    assert same.call(dump_function(lab.state).data) == (1, {"scale": 1}, 6)
    importlib.reload(sys.modules["editlab.core"])
    assert same.call(dump_function(lab.state).data) == (9, {"scale": 1}, 6)


def test_a_patch_that_is_undone(lab: Any, same: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    core: Any = sys.modules["editlab.core"]
    assert same.call(dump_function(lab.lazy).data, core.Config()) == (True, True)
    with monkeypatch.context() as patch:
        patch.setattr(core, "LIMIT", 7)
        assert same.call(dump_function(lab.state).data) == (7, {"scale": 1}, 6)
    assert same.call(dump_function(lab.state).data) == (1, {"scale": 1}, 6)
    assert same.call(dump_function(lab.lazy).data, core.Config()) == (True, True)


def test_a_cache_that_the_package_fills_is_no_change(lab: Any, same: Elsewhere) -> None:
    core: Any = sys.modules["editlab.core"]
    core._cache[1] = 2
    assert same.call(dump_function(lab.lazy).data, core.Config()) == (True, True)


def test_in_one_process_a_class_is_itself(lab: Any) -> None:
    assert load_result(dump_result(lab.Config)) is lab.Config
    assert load_result(dump_result(lab.top)) is lab.top
