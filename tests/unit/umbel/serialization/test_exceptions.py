"""Exceptions as data."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import json
import pathlib
import subprocess
import sys
import threading
import urllib.error
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.exceptions import Absent
from umbel.protocol.errors import TaskError
from umbel.serialization.exceptions import MAX_TRACEBACK, dump_exception, load_exception


class Plain(Exception):
    pass


class OwnInit(Exception):
    """Its arguments are not what it stores."""

    def __init__(self, what: str, count: int):
        super().__init__(f"{count} times {what}")
        self.what = what
        self.count = count


class Fetched(Exception):
    """Its attribute is an argument of its constructor, but its message is not."""

    best = "a default of the class"

    def __init__(self, body: Any, best: Any = "did not converge"):
        super().__init__("http 500")
        self.body = body
        self.best = best


class Slotted(Exception):
    __slots__ = ("where",)


class OwnOSError(OSError):
    def __init__(self, path: str, hint: str):
        super().__init__(2, "gone", path)
        self.hint = hint


class Mode(enum.Enum):
    FAST = 1


class Liar(Exception):
    """Its message depends on something that does not travel."""

    def __init__(self) -> None:
        super().__init__()
        self.secret = object()

    def __str__(self) -> str:
        return f"{id(self)}"


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def travel(error: BaseException) -> BaseException:
    return load_exception(dump_exception(raised(error)), "task-1", "TASK_ERROR")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text"),
        KeyError(("a", 1)),
        FileNotFoundError(2, "No such file", "/data"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        Plain("a", [1, {"b": None}], (2.5, True)),
        Plain(),
        OwnInit("refused", 3),
    ],
)
def test_come_back_as_they_were(error: Exception) -> None:
    copy = travel(error)
    assert type(copy) is type(error)
    assert (copy.args, str(copy)) == (error.args, str(error))
    assert {k: v for k, v in vars(copy).items()} == vars(error)
    cause = copy.__cause__
    assert isinstance(cause, TaskError) and cause.task_id == "task-1"
    assert cause.traceback is not None and "in raised" in cause.traceback


ZONE = datetime.timezone(datetime.timedelta(hours=2))
VALUES = [
    *(b"raw", bytearray(b"raw"), {1, 2}, frozenset({"a"}), (1, [2, (3,)]), [1, (2,)]),
    *({"a": 1}, {1: "a", (2,): b"b"}, {"$tuple": 1}, None, True, "é"),
    *(1 + 2j, complex("nan-infj"), float("inf"), 10**4000, -(10**4000), range(1, 5, 2)),
    *(datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 1, tzinfo=ZONE, fold=1)),
    *(datetime.date(2020, 1, 1), datetime.time(1, 2), datetime.timedelta(days=-1, microseconds=3)),
    *(decimal.Decimal("1.50"), fractions.Fraction(1, 3), uuid.UUID(int=5)),
    *(pathlib.Path("/x"), pathlib.PureWindowsPath("c:/x"), Mode.FAST, ValueError, Mode, int),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_keep_their_type_in_arguments_and_attributes(value: Any) -> None:
    copy = travel(Plain(value))
    assert type(copy) is Plain and repr(copy.args) == repr((value,)) and type(copy.args[0]) is type(value)
    copy = travel(KeyError(value))
    assert type(copy) is KeyError and repr(copy.args) == repr((value,))
    copy = travel(Fetched(value))
    assert isinstance(copy, Fetched)
    assert repr(copy.body) == repr(value) and type(copy.body) is type(value)
    assert copy.best == "did not converge" and copy.args == ("http 500",)


def test_numbers_and_arrays_of_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    for value in (numpy.int64(3), numpy.float32(0.5), numpy.bool_(True), numpy.datetime64("2020-01-01")):
        copy = travel(KeyError(value))
        assert type(copy) is KeyError and type(copy.args[0]) is type(value) and copy.args[0] == value
    copy = travel(Plain("diverged", numpy.arange(6.0).reshape(2, 3)))
    assert type(copy) is Plain and copy.args[1].tolist() == [[0, 1, 2], [3, 4, 5]]
    copy = travel(Plain(numpy.array([object()])))
    assert type(copy) is Plain and isinstance(copy.args[0], Absent)


def test_what_does_not_travel_is_absent_and_never_another_value() -> None:
    body = threading.Lock()
    copy = travel(Fetched(body, object()))
    assert type(copy) is Fetched and copy.args == ("http 500",)
    assert not hasattr(copy, "body")
    assert isinstance(copy.best, Absent) and copy.best.type == "builtins.object"
    with pytest.raises(TypeError, match="did not travel"):
        bool(copy.best)
    notes = getattr(copy, "__notes__")
    assert any("'body'" in note and repr(body) in note for note in notes) and len(notes) == 2
    copy = travel(KeyError(body))
    assert type(copy) is KeyError and repr(copy.args[0]) == repr(body) and copy.args[0].text == repr(body)


def test_attributes_in_slots_and_classes_with_their_own_constructor() -> None:
    error = Slotted("x")
    error.where = b"here"
    copy = travel(error)
    assert isinstance(copy, Slotted) and copy.where == b"here"
    copy = travel(OwnOSError("/data", "mount it"))
    assert isinstance(copy, OwnOSError)
    assert (copy.errno, copy.filename, copy.hint) == (2, "/data", "mount it")
    assert str(copy) == str(OwnOSError("/data", "mount it"))


def divide() -> None:
    decimal.Decimal(1) / 0


def run_a_command() -> None:
    subprocess.run(
        [sys.executable, "-c", "import sys; print(1); sys.exit('no')"], check=True, capture_output=True
    )


def run_too_long() -> None:
    raise subprocess.TimeoutExpired(["sleep"], 0.5, b"out", b"err")


def fetch() -> None:
    raise urllib.error.URLError(OSError(111, "refused"))


def parse() -> None:
    json.loads("{")


def compile_it() -> None:
    compile("a b", "file.py", "exec")


def load_a_module() -> None:
    import umbel.no_such_module  # type: ignore[import-not-found]  # noqa: F401


def find_a_name() -> None:
    no_such_name  # type: ignore[name-defined]  # noqa: B018, F821


REAL = [divide, run_a_command, run_too_long, fetch, parse, compile_it, load_a_module, find_a_name]


@pytest.mark.parametrize("fail", REAL)
def test_exceptions_of_the_standard_library(fail: Callable[[], None]) -> None:
    with pytest.raises(Exception) as caught:
        fail()
    copy = travel(caught.value)
    assert type(copy) is type(caught.value) and str(copy) == str(caught.value)
    assert repr(copy.args) == repr(caught.value.args) and repr(vars(copy)) == repr(vars(caught.value))
    for name in ("name", "path", "stderr", "reason", "lineno", "text", "end_offset", "filename"):
        assert repr(getattr(copy, name, None)) == repr(getattr(caught.value, name, None))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups need Python 3.11")
def test_groups() -> None:
    group = ExceptionGroup("g", [ValueError(b"1"), ExceptionGroup("h", [Slotted(2)])])  # noqa: F821
    copy = travel(group)
    assert repr(copy) == repr(group) and copy.split(Slotted)[0] is not None  # type: ignore[attr-defined]
    copy = travel(RuntimeError("wrapped", ValueError("in")))
    assert type(copy) is RuntimeError and repr(copy.args) == repr(("wrapped", ValueError("in")))


def test_notes_travel() -> None:
    error = ValueError("x")
    error.__dict__["__notes__"] = ["while fitting"]
    assert getattr(travel(error), "__notes__") == ["while fitting"]


def test_causes_keep_their_classes() -> None:
    error = RuntimeError("outer")
    error.__cause__ = KeyError(b"inner")
    error.__cause__.__cause__ = Liar()
    copy = travel(error)
    assert isinstance(copy.__cause__, TaskError)
    cause = copy.__context__
    assert type(cause) is KeyError and cause.args == (b"inner",) and copy.__cause__.__cause__ is cause
    assert type(cause.__cause__) is TaskError


def test_classes_of_the_standard_library_are_found_though_never_imported(tmp_path: pathlib.Path) -> None:
    record = dump_exception(raised(decimal.InvalidOperation([decimal.ConversionSyntax])))
    program = (
        "import sys\nfrom umbel.serialization import exceptions\nsys.modules.pop('decimal')\n"
        "error = exceptions.load_exception(sys.stdin.buffer.read())\n"
        "assert isinstance(error, ArithmeticError), error"
    )
    subprocess.run([sys.executable, "-c", program], input=record, check=True, timeout=60)


@pytest.mark.parametrize(
    "value",
    [
        {"$numpy": ["S1000000000", [1], ""]},
        {"$fraction": ["0x" + "f" * 10**6, "0x1"]},
        {"$fraction": "zz"},
        {"$int": "0x" + "f" * 10**6},
        {"$enum": ["os", "system", "x", "t", "r", "s"]},
        {"$class": ["os", "system", "", "t", "r", "s"]},
        {"$eval": "1"},
        {"$exception": {"module": "os", "qualname": "system", "message": "", "args": ["true"]}},
        {"$set": [[1]]},
        {"$datetime": 5},
        {"$bytes": [1]},
    ],
    ids=lambda value: next(iter(value)),
)
def test_damaged_or_hostile_values(value: Any) -> None:
    record = {
        "module": "builtins",
        "qualname": "ValueError",
        "message": "m",
        "args": ["m"],
        "state": {"x": value},
    }
    copy = load_exception(json.dumps(record).encode())
    if type(copy) is ValueError:
        assert not hasattr(copy, "x") or type(copy.x) is TaskError


def test_a_constructor_of_the_user_does_not_run() -> None:
    record = {"module": __name__, "qualname": "Fetched", "message": "b", "args": ["b"], "state": {}}
    copy = load_exception(json.dumps(record).encode())
    assert type(copy) is Fetched and vars(copy) == {}


def test_files_of_oserrors_are_kept() -> None:
    copy = travel(FileNotFoundError(2, "No such file", "/data"))
    assert isinstance(copy, FileNotFoundError) and copy.filename == "/data"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Liar(), Broken()])
def test_what_cannot_come_back_is_a_task_error_with_the_traceback(error: BaseException) -> None:
    copy = travel(error)
    assert type(copy) is TaskError
    assert (copy.code, copy.task_id) == ("TASK_ERROR", "task-1")
    assert type(error).__name__ in copy.message
    assert copy.traceback


def test_a_class_that_was_never_imported_here_is_not_imported() -> None:
    record = {"module": "antigravity", "qualname": "Error", "message": "m", "args": ["m"], "state": {}}
    assert type(load_exception(json.dumps(record).encode())) is TaskError


@pytest.mark.parametrize(
    ("module", "qualname"),
    [
        ("builtins", "eval"),
        ("os", "system"),
        ("builtins", "object"),
        ("os", "path.join"),
        ("json", "__doc__"),
    ],
)
def test_nothing_but_exceptions_is_called(module: str, qualname: str) -> None:
    record = {"module": module, "qualname": qualname, "message": "1", "args": ["1+1"], "state": {}}
    assert type(load_exception(json.dumps(record).encode())) is TaskError


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), lambda x: st.lists(x)).map(json.dumps))
def test_damaged_descriptions(data: bytes | str) -> None:
    raw = data.encode() if isinstance(data, str) else data
    error = load_exception(raw, "task-1")
    assert type(error) is TaskError and "damaged" in error.message


def test_long_tracebacks_keep_both_ends() -> None:
    error = load_exception(dump_exception(raised(ValueError("x" * 200_000 + "end"))))
    cause = error if isinstance(error, TaskError) else error.__cause__
    assert isinstance(cause, TaskError) and cause.traceback is not None
    assert len(cause.traceback) < MAX_TRACEBACK + 100
    assert cause.traceback.startswith("Traceback") and "left out" in cause.traceback


def test_causes_are_described_and_end_somewhere() -> None:
    error: BaseException = ValueError(0)
    for number in range(1, 50):
        later = ValueError(number)
        later.__cause__ = error
        error = later
    record: Any = json.loads(dump_exception(error))
    depth = 0
    while record is not None:
        record, depth = record["cause"], depth + 1
    assert 2 < depth < 20
