from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.protocol.errors import BadRequest
from webapp import strict_json

text = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_what_is_written_is_read(value: Any) -> None:
    assert strict_json.loads(strict_json.dumps(value).encode()) == value


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_read_or_refused_and_what_is_read_can_be_stored(data: bytes) -> None:
    try:
        value = strict_json.loads(data)
    except BadRequest:
        return
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize(
    "number", ["1" * 301, "-" + "1" * 5000, "1e400", "-1e400", "NaN", "Infinity", "-Infinity"]
)
def test_numbers_beyond_every_range_are_refused(number: str) -> None:
    with pytest.raises(BadRequest):
        strict_json.loads(number.encode())


def test_what_is_no_json_is_never_written() -> None:
    with pytest.raises(ValueError):
        strict_json.dumps(float("nan"))
