"""Objects to bytes and back."""

from __future__ import annotations

import functools
import json
import math
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.exceptions import DeserializeError, SerializeError, VersionMismatch
from umbel.serialization import codec

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4)
    | st.tuples(inner, inner)
    | st.dictionaries(st.text(), inner, max_size=4)
    | st.frozensets(st.integers()),
    max_leaves=20,
)

SCALE = 3
TABLE = {"a": 1}


class Own:
    """A class of a module that is not installed."""

    def __init__(self, value: int):
        self.value = value

    def plus(self, other: int) -> int:
        return self.value + other


def helper(number: int) -> int:
    return number * SCALE


def uses_everything(number: float, power: int = 2) -> float:
    return helper(int(math.sqrt(number))) ** power + TABLE["a"]


def logged(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any) -> Any:
        return [fn(*args)]

    return wrapper


@logged
def decorated(number: int) -> int:
    """Return a number plus one."""
    return number + 1


def annotated(value: DoesNotExist) -> DoesNotExist:  # type: ignore[name-defined]  # noqa: F821
    return value


@given(st.lists(plain, max_size=4), st.dictionaries(st.text(), plain, max_size=4))
def test_calls_of_plain_values(args: list[Any], kwargs: dict[str, Any]) -> None:
    data = codec.dump_call(tuple(args), kwargs)
    assert data[:1] == codec.PLAIN
    assert codec.load_call(data) == (tuple(args), kwargs)


@given(plain)
def test_results_of_plain_values(value: Any) -> None:
    data = codec.dump_result(value)
    assert data[:1] == codec.PLAIN
    copy = codec.load_result(data)
    assert copy == value and type(copy) is type(value)


@pytest.mark.parametrize("value", [Own(3), {"deep": [Own(3)]}, Own, lambda: 3, OrderedDict(a=1), math])
def test_other_values_take_the_long_way(value: Any) -> None:
    data = codec.dump_result(value)
    assert data[:1] == codec.CLOUD
    assert tuple(data[1:3]) == sys.version_info[:2]
    assert type(codec.load_result(data)) is type(value)


def test_objects_keep_their_class() -> None:
    (copy,), _ = codec.load_call(codec.dump_call((Own(4),), {}))
    assert type(copy) is Own and copy.plus(1) == 5


class Bad:
    def __reduce__(self) -> Any:
        raise TypeError("stays here")


def test_what_cannot_be_serialized_says_why() -> None:
    for dump in (codec.dump_result, lambda value: codec.dump_call((value,), {})):
        with pytest.raises(SerializeError, match="stays here"):
            dump(Bad())
    endless: list[Any] = []
    for _ in range(100_000):
        endless = [endless]
    with pytest.raises(SerializeError, match="nested too deeply"):
        codec.dump_result(endless)


@given(st.binary(max_size=200))
def test_damaged_bytes_are_never_more_than_an_error(data: bytes) -> None:
    # only codecs that run no pickle: a pickle of random bytes may do anything
    damaged = b"X" + data
    for load in (codec.load_call, codec.load_result, codec.load_function):
        with pytest.raises(DeserializeError):
            load(damaged)


@pytest.mark.parametrize(
    "data", [b"", b"P", b"Pgarbage", b"C", b"C\x03\x0bgarbage", b"P" + b"\x80\x05K\x01."]
)
def test_calls_that_are_none(data: bytes) -> None:
    with pytest.raises(DeserializeError):
        codec.load_call(data)


@pytest.mark.parametrize(
    "data", [b"", b"UMBF", b"UMBF\0\0\0\x02[]", b"UMBF\xff\xff\xff\xff{}", b"UMBF\0\0\0\x02{}"]
)
def test_functions_that_are_none(data: bytes) -> None:
    with pytest.raises(DeserializeError):
        codec.load_function(data)


FUNCTIONS = [
    (uses_everything, (16.0,), 145.0, "uses_everything"),
    (decorated, (1,), [2], "decorated"),
    (lambda x: x * SCALE, (2,), 6, "<lambda>"),
    (functools.partial(helper, 2), (), 6, "helper"),
    (Own(3).plus, (4,), 7, "Own.plus"),
    (math.sqrt, (4.0,), 2.0, "sqrt"),
    (len, ([1],), 1, "len"),
    (Own, (1,), None, "Own"),
]


@pytest.mark.parametrize(("fn", "args", "expected", "name"), FUNCTIONS)
def test_functions(fn: Any, args: Any, expected: Any, name: str) -> None:
    body = codec.dump_function(fn)
    assert name in body.name
    result = codec.load_function(body.data)(*args)
    assert result == expected or isinstance(result, Own)


def test_code_keeps_the_name_of_its_file() -> None:
    copy = codec.load_function(codec.dump_function(lambda x: x * SCALE).data)
    assert copy.__code__.co_filename == __file__
    inner: Any = codec.load_result(codec.dump_result(Own))
    assert inner.plus.__code__.co_filename == __file__


def test_a_function_shows_its_source_and_docstring() -> None:
    body = codec.dump_function(decorated)
    assert body.source is not None and "return number + 1" in body.source
    assert body.description == "Return a number plus one."


def test_what_is_no_function() -> None:
    with pytest.raises(TypeError, match="not callable"):
        codec.dump_function(3)  # type: ignore[arg-type]
    captured = Bad()
    with pytest.raises(SerializeError, match="stays here"):
        codec.dump_function(lambda: captured)


def of_another_python(body: codec.FunctionBody) -> bytes:
    """The same bytes as if Python 3.99 had written them."""
    end = 8 + int.from_bytes(body.data[4:8], "big")
    header = {**json.loads(body.data[8:end]), "python": "3.99"}
    raw = json.dumps(header).encode()
    return codec.FUNCTION_MAGIC + len(raw).to_bytes(4, "big") + raw + body.data[end:]


@pytest.mark.parametrize(
    ("fn", "args", "expected"),
    [
        (uses_everything, (16.0,), 145.0),
        (decorated, (1,), [2]),
        (annotated, (5,), 5),
        (math.sqrt, (4.0,), 2.0),
        (len, ([1],), 1),
    ],
)
def test_another_python_falls_back_on_the_source(fn: Any, args: Any, expected: Any) -> None:
    loaded = codec.load_function(of_another_python(codec.dump_function(fn)))
    assert loaded(*args) == expected


def test_the_text_of_an_edited_file_does_not_stand_for_the_code_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "edited.py"
    file.write_text("def f(x):\n    return x + 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import edited  # type: ignore[import-not-found]

    assert codec.load_function(of_another_python(codec.dump_function(edited.f)))(1) == 2
    file.write_text("def f(x):\n    return x + 1000\n")
    body = codec.dump_function(edited.f)
    assert codec.load_function(body.data)(1) == 2 and body.source is None
    with pytest.raises(VersionMismatch):
        codec.load_function(of_another_python(body))


def closure() -> Callable[[], int]:
    number = 3
    return lambda: number


@pytest.mark.parametrize("fn", [closure(), lambda: 1, Own(3).plus, functools.partial(helper, 1)])
def test_another_python_without_a_fallback_names_both_versions(fn: Any) -> None:
    with pytest.raises(VersionMismatch) as caught:
        codec.load_function(of_another_python(codec.dump_function(fn)))
    assert caught.value.code == "VERSION_MISMATCH"
    assert (
        "3.99" in caught.value.message
        and f"{sys.version_info[0]}.{sys.version_info[1]}" in caught.value.message
    )


def test_values_of_another_python() -> None:
    harmless = codec.dump_result(OrderedDict(a=1))
    assert codec.load_result(b"C\x03\x63" + harmless[3:]) == OrderedDict(a=1)
    code = codec.dump_result(lambda: 1)
    with pytest.raises(VersionMismatch, match=r"3\.99"):
        codec.load_result(b"C\x03\x63" + code[3:])
