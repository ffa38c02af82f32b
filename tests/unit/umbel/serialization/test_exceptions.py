"""Exceptions as data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    if isinstance(error, UnicodeDecodeError):  # its bytes are not plain
        assert isinstance(copy, TaskError)
        return
    assert type(copy) is type(error)
    assert (copy.args, str(copy)) == (error.args, str(error))
    assert {k: v for k, v in vars(copy).items()} == vars(error)
    cause = copy.__cause__
    assert isinstance(cause, TaskError) and cause.task_id == "task-1"
    assert cause.traceback is not None and "in raised" in cause.traceback


def test_files_of_oserrors_are_kept() -> None:
    copy = travel(FileNotFoundError(2, "No such file", "/data"))
    assert isinstance(copy, FileNotFoundError) and copy.filename == "/data"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Liar(), Broken(), Plain(object())])
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
