"""JSON is the same with msgspec and without it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.protocol import compact_json

_TEXT = st.text(st.characters(), max_size=8)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)
_NOT_JSON = [
    b"",
    b"NaN",
    b"[Infinity]",
    b"-Infinity",
    b"{",
    b'{"a":1,}',
    b"01",
    b"'a'",
    b"\xff",
    b'"\xff"',
    b'"\x01"',
    b"1 2",
    b"\xef\xbb\xbf1",
    b"[" * 100_000,
]


@pytest.fixture(params=["msgspec", "standard library"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "standard library":
        monkeypatch.setattr(compact_json, "_fast_encode", None)
        monkeypatch.setattr(compact_json, "_fast_decode", None)
    else:
        assert compact_json._fast_decode is not None, "msgspec is missing"
    return str(request.param)


@given(_VALUES)
def test_what_was_written_is_read(value: Any) -> None:
    data = compact_json.encode(value)
    assert json.loads(data) == value
    assert compact_json.decode(data) == value
    assert compact_json.decode(memoryview(data)) == value


@given(_VALUES)
def test_what_others_wrote_is_read(value: Any) -> None:
    for ascii_only in (True, False):
        data = json.dumps(value, indent=1, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        assert compact_json.decode(data) == value


@pytest.mark.parametrize("data", _NOT_JSON, ids=lambda data: ascii(data[:12]))
def test_anything_else_is_an_error(data: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        compact_json.decode(data)


def test_numbers_out_of_range_are_no_numbers_of_a_record() -> None:
    assert compact_json.decode(b"1e400") == math.inf
    with pytest.raises(ValueError):
        compact_json.decode(b"1" * 5000)


@pytest.mark.parametrize("text", ["\ud800", "a\udfff\n", "\0\N{SNOWMAN}"])
def test_lone_surrogates_travel(text: str) -> None:
    assert compact_json.decode(compact_json.encode({text: [text]})) == {text: [text]}


def test_only_plain_values_are_written() -> None:
    class Name(str):
        pass

    assert compact_json.encode([Name("a"), (1, None)]) == b'["a",[1,null]]'
    with pytest.raises(TypeError):
        compact_json.encode(object())
