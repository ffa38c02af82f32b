"""What travels as code, loaded in another process."""

from __future__ import annotations

import functools
import importlib
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.elsewhere import Elsewhere
from umbel.exceptions import SerializeError
from umbel.serialization import by_value
from umbel.serialize import dump_call, dump_function, dump_result, load_result


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    with Elsewhere(tmp_path_factory.mktemp("elsewhere")) as process:
        yield process


def main_program(text: str) -> dict[str, Any]:
    """Run a program whose functions belong to ``__main__``."""
    program: dict[str, Any] = {"__name__": "__main__"}
    exec(text, program)
    return program


#: Name -> definitions, argument of ``f``, result.
CALLABLES = {
    "cache": ("@functools.cache\ndef f(x): return x if x < 2 else f(x - 1) + f(x - 2)", 8, 21),
    "lru_cache": (
        "@functools.lru_cache(maxsize=3, typed=True)\ndef f(x): return (x, f.cache_info().maxsize)",
        1,
        (1, 3),
    ),
    "singledispatch": (
        "@functools.singledispatch\ndef f(x): return 'other'\n"
        "@f.register\ndef _(x: int): return 'int', f('a')",
        1,
        ("int", "other"),
    ),
    "singledispatchmethod": (
        "class A:\n    @functools.singledispatchmethod\n    def m(self, x): return 'other'\n"
        "    @m.register\n    def _(self, x: int): return 'int'\ndef f(x): return A().m(x), A().m('a')",
        1,
        ("int", "other"),
    ),
    "wraps": (
        "def twice(fn):\n    @functools.wraps(fn)\n    def inner(*args): return fn(*args), fn(*args)\n"
        "    return inner\n@twice\n@twice\ndef f(x): return x",
        1,
        ((1, 1), (1, 1)),
    ),
    "partialmethod": (
        "class A:\n    def m(self, a, b): return a, b\n    n = functools.partialmethod(m, 5)\n"
        "def f(x): return A().n(x)",
        1,
        (5, 1),
    ),
    "cached_property": (
        "class A:\n    @functools.cached_property\n    def p(self): return 5\ndef f(x): return A().p + x",
        1,
        6,
    ),
    "cache of a method": (
        "class A:\n    @functools.cache\n    def m(self, x): return x\ndef f(x): return A().m(x)",
        1,
        1,
    ),
    "type variable": (
        "T = typing.TypeVar('T')\nclass A(typing.Generic[T]): pass\ndef f(x): return type(A[int]()).__name__",
        1,
        "A",
    ),
}


@pytest.mark.parametrize("name", CALLABLES)
def test_functions_of_a_script(name: str, elsewhere: Elsewhere) -> None:
    text, argument, expected = CALLABLES[name]
    f = main_program("import functools, typing\n" + text)["f"]
    assert f(argument) == expected
    assert elsewhere.call(dump_function(f).data, argument) == expected


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], Any]]:
    """Write the files of a package beside the user's script and import it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(files: dict[str, str]) -> Any:
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module("mypack")

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mypack", "beside", "spaced")]:
        del sys.modules[name]


#: Bodies of ``f(x)`` in ``mypack.core``; each returns 10 * x.
IMPORTS = {
    "relative": "from . import util\nreturn util.scale(x)",
    "relative item": "from .util import scale\nreturn scale(x)",
    "absolute": "import mypack.util\nreturn mypack.util.scale(x)",
    "absolute with a name": "import mypack.util as u\nreturn u.scale(x)",
    "from the package": "from mypack import util\nreturn util.scale(x)",
    "another file": "import beside\nfrom beside import two\nreturn beside.one(x) + two(x) - 10",
    "without __init__": "import spaced.part\nreturn spaced.part.scale(x)",
    "in an inner function": "def g():\n    from .util import scale\n    return scale(x)\nreturn g()",
    "a method": "class A:\n  def m(self):\n    from .util import scale\n    return scale(x)\nreturn A().m()",
    "indirect": "from .util import indirect\nreturn indirect(x)",
    "installed too": "import math, os.path\nfrom .util import scale\nreturn int(math.sqrt(scale(x) ** 2))",
}


@pytest.mark.parametrize("name", IMPORTS)
def test_imports_of_local_modules_inside_functions(
    name: str, package: Callable[[dict[str, str]], Any], elsewhere: Elsewhere
) -> None:
    files = {
        "mypack/__init__.py": "",
        "mypack/core.py": "def f(x):\n" + textwrap.indent(IMPORTS[name], "    ") + "\n",
        "mypack/util.py": "def scale(x): return 10 * x\n"
        "def indirect(x):\n    from . import deep\n    return deep.scale(x)\n",
        "mypack/deep.py": "def scale(x): return 10 * x\n",
        "beside.py": "def one(x): return 10 * x\ndef two(x): return 10\n",
        "spaced/part.py": "def scale(x): return 10 * x\n",
    }
    package(files)
    f = importlib.import_module("mypack.core").f
    data = dump_function(f).data
    assert elsewhere.call(data, 3) == 30
    assert f(3) == 30
    # nothing of it stays in the process, where another version may follow
    probe = main_program("def f(): import sys; return [m for m in sys.modules if m in ('mypack', 'beside')]")[
        "f"
    ]
    assert elsewhere.call(dump_function(probe).data) == []


def test_two_versions_of_an_imported_module(
    package: Callable[[dict[str, str]], Any], elsewhere: Elsewhere
) -> None:
    package({"mypack/__init__.py": "", "mypack/util.py": "N = 1\n"})
    f = main_program("def f():\n    from mypack import util\n    return util.N")["f"]
    first = dump_function(f).data
    assert elsewhere.call(first) == 1
    sys.modules["mypack.util"].N = 2  # type: ignore[attr-defined]
    second = dump_function(f).data
    assert [elsewhere.call(data) for data in (second, first, second)] == [2, 1, 2]


def test_an_import_that_fails_here_fails_only_where_it_runs(
    package: Callable[[dict[str, str]], Any], elsewhere: Elsewhere
) -> None:
    package({"mypack/__init__.py": "", "mypack/broken.py": "raise RuntimeError('no GPU')\n"})
    f = main_program("def f(x):\n    if x:\n        import mypack.broken\n    return x")["f"]
    data = dump_function(f).data
    assert elsewhere.call(data, 0) == 0
    with pytest.raises(ImportError):
        elsewhere.call(data, 1)


def test_modules_that_refer_to_each_other(
    package: Callable[[dict[str, str]], Any], elsewhere: Elsewhere
) -> None:
    package(
        {
            "mypack/__init__.py": "from . import a, b\n",
            "mypack/a.py": "from . import b\ndef f(x): return b.g(x)\nN = 1\n",
            "mypack/b.py": "from . import a\ndef g(x): return a.N + x\n",
        }
    )
    assert elsewhere.call(dump_function(sys.modules["mypack.a"].f).data, 1) == 2


class Submits:
    """Its pickling serializes something else, also in another thread."""

    def __reduce__(self) -> Any:
        inner = threading.Thread(target=dump_call, args=(({object},), {}))
        inner.start()
        inner.join(10)
        assert not inner.is_alive()
        return str, (str(len(by_value.dumps({object}))),)


def test_pickling_may_run_code_that_serializes() -> None:
    assert load_result(dump_result([Submits(), Submits])) is not None


class Lazy:
    """A proxy that must not be resolved to be serialized."""

    @property
    def __class__(self) -> Any:
        raise AssertionError("resolved")

    def __reduce__(self) -> Any:
        return int, (5,)


def test_a_lazy_proxy_is_not_resolved() -> None:
    assert load_result(dump_result([Lazy()])) == [5]
    assert load_result(dump_result({"a": (Lazy(), dump_call)}))["a"][0] == 5


def test_a_module_that_cannot_travel_is_imported_there(
    package: Callable[[dict[str, str]], Any],
) -> None:
    text = "import threading\nlock = threading.Lock()\ndef f():\n    with lock: return 1\n"
    module = package({"mypack/__init__.py": text})
    assert b"mypack" in dump_function(module.f).data
    assert b"make_function" not in dump_function(module.f).data
    local = threading.Lock()
    with pytest.raises(SerializeError, match="lock"):
        dump_function(lambda: local)


def test_a_partial_of_a_cached_function(elsewhere: Elsewhere) -> None:
    f = main_program("import functools\n@functools.cache\ndef f(x, y): return x - y")["f"]
    assert elsewhere.call(dump_function(functools.partial(f, 5)).data, 2) == 3
