from __future__ import annotations

import base64
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import Schema, ValidationError, fields

from webapp.schemas.fields import Base64, Id, Number, Object, Payloads, Text, decode_all, name_unknown


class Everything(Schema):
    text = Text(min_length=1, max_length=3)
    id = Id()
    number = Number()
    object = Object(max_bytes=100, max_depth=3)
    data = Base64(min_bytes=1)
    key = Base64(exactly=2)
    payloads = Payloads()


def load(**values: Any) -> Any:
    return Everything().load(values)


@given(st.lists(st.binary(), min_size=1))
def test_payloads_are_what_was_encoded(payloads: list[bytes]) -> None:
    assert decode_all([base64.b64encode(payload).decode() for payload in payloads]) == payloads


@given(st.text("AQ=+/ \n-_é", max_size=9))
def test_texts_are_decoded_exactly_when_they_are_strict_base64(text: str) -> None:
    try:
        expected = base64.b64decode(text, validate=True) if "\n" not in text else None
    except ValueError:
        expected = None
    # the standard library takes more padding than belongs there
    if expected is not None and len(base64.b64encode(expected)) != len(text):
        expected = None
    try:
        found = decode_all([text])[0]
    except ValidationError:
        found = None
    assert found == expected


@pytest.mark.parametrize(
    "item",
    ["Q", "QQ", "QQ=", "Q===", "====", "QQ==QQ==", "QQ\n==", "QQ==\n", "é", None, 1, b"QQ==", ["QQ=="]],
)
def test_what_is_no_base64_is_named_by_its_place(item: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        load(payloads=["QQ==", item, "QQ=="])
    messages = caught.value.messages_dict["payloads"]
    assert list(messages) == [1] and "base64" in messages[1][0]


@pytest.mark.parametrize("value", [None, "QQ==", {}, [], ["QQ=="] * 10_001])
def test_payloads_are_a_list_of_1_to_10000(value: Any) -> None:
    with pytest.raises(ValidationError):
        load(payloads=value)


def test_ten_thousand_payloads_cost_some_milliseconds() -> None:
    texts = [base64.b64encode(b"%032d" % number).decode() for number in range(10_000)]
    best = min(timed(lambda: load(payloads=texts)) for _ in range(5))
    assert best < 0.05


def timed(act: Any) -> float:
    before = time.perf_counter()
    act()
    return time.perf_counter() - before


@pytest.mark.parametrize(
    "values",
    [
        {"text": ""},
        {"text": "four"},
        {"text": "\0"},
        {"text": 1},
        {"id": "x"},
        {"id": "00000000-0000-0000-0000-00000000000A"},
        {"id": "00000000-0000-0000-0000-000000000000\n"},
        {"number": "1"},
        {"number": True},
        {"number": None},
        {"object": []},
        {"object": {"a": "x" * 100}},
        {"object": {"a": {"b": {"c": {"d": {}}}}}},
        {"data": ""},
        {"data": 1},
        {"key": "QQ=="},
        {"unknown": 1},
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        load(**values)


def test_right_values_pass() -> None:
    id = "00000000-0000-0000-0000-00000000000a"
    values = {"text": "é€🌿", "id": id, "number": 1, "object": {"a": [1, {"b": None}]}}
    assert load(**values, data="QQ==", key="QUE=") == {**values, "data": b"A", "key": b"AA"}


class Outer(Schema):
    key = fields.String(data_key="Some-Key")
    everything = fields.Nested(Everything)


def unknown(body: Any) -> Any:
    """The messages about a body, with suggestions."""
    with pytest.raises(ValidationError) as caught:
        Outer().load(body)
    messages = caught.value.normalized_messages()
    name_unknown(messages, Outer())
    return messages


def test_unknown_fields_get_a_suggestion() -> None:
    assert "did you mean 'everything'" in unknown({"everythin": {}})["everythin"][0]
    assert "did you mean 'Some-Key'" in unknown({"some-kye": ""})["some-kye"][0]
    assert "Some-Key, everything" in unknown({"zzz": 1})["zzz"][0]
    nested = unknown({"everything": {"payload": [], "id": "x"}, "x" * 1000: 1})
    assert "did you mean 'payloads'" in nested["everything"]["payload"][0]
    assert nested["everything"]["id"] == Everything().validate({"id": "x"})["id"], "other messages stay"
    assert len(nested["x" * 1000][0]) < 200


def test_other_mistakes_are_left_as_they_are() -> None:
    assert unknown({"everything": []}) == {"everything": {"_schema": ["Invalid input type."]}}
    assert unknown({"Some-Key": 1}) == {"Some-Key": ["Not a valid string."]}
    assert unknown([]) == {"_schema": ["Invalid input type."]}


def test_only_a_few_unknown_fields_get_a_suggestion() -> None:
    """Each costs a comparison with all known fields, and a body of 12 MiB may have a million."""
    messages = unknown({"everything": {f"payloads{number}": 1 for number in range(1000)}})["everything"]
    assert len(messages) == 100 and sum("did you mean" in said for (said,) in messages.values()) == 8
