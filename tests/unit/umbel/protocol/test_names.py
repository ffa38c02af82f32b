"""Ids and names."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from umbel.protocol import names

#: Seconds since 1970, for the next ninety years.
moments = st.floats(0, 4.6e9)


@given(st.integers(1, 3000), moments)
def test_task_ids_are_uuids_of_version_7_in_order(count: int, seconds: float) -> None:
    ids = names.new_task_ids(count, seconds)
    assert len(set(ids)) == count and ids == sorted(ids)
    for text in (ids[0], ids[-1]):
        value = uuid.UUID(text)
        assert (str(value), value.version, value.variant) == (text, 7, uuid.RFC_4122)
        assert abs((value.int >> 80) / 1000 - seconds) < 0.0011
    assert all(map(names.is_id, ids))
    assert names.following_ids(ids[0], count) == ids


@given(moments)
def test_task_ids_of_a_microsecond_later_sort_later(seconds: float) -> None:
    assert names.new_task_ids(5, seconds)[-1] < names.new_task_ids(1, seconds + 2e-6)[0]


def test_submissions_of_one_moment_do_not_meet() -> None:
    ids = [task_id for _ in range(200) for task_id in names.new_task_ids(50, 1.0)]
    assert len(set(ids)) == len(ids)


def test_random_ids() -> None:
    ids = {names.new_id() for _ in range(100)}
    assert len(ids) == 100 and all(map(names.is_id, ids))


def test_what_is_no_id() -> None:
    good = names.new_id()
    for text in (
        "",
        good.upper(),
        good + "\n",
        "{" + good + "}",
        good.replace("-", ""),
        good[:-1],
        good + "0",
    ):
        assert not names.is_id(text), text


def test_names_of_endpoints() -> None:
    for text in ("a", "lab.server-1", "A_b", "9lives", "x" * 63):
        assert names.valid_name(text), text
    for text in ("", "-a", ".a", "a b", "a/b", "ä", "x" * 64, "a\n", "a:b", "*"):
        assert not names.valid_name(text), text


@given(st.uuids().map(str), st.uuids().map(str))
def test_keys_of_two_endpoints_share_no_prefix(one: str, other: str) -> None:
    keys = [
        names.queue_key(one),
        names.body_key(one, "b"),
        names.function_key(one, "s"),
        names.cancelled_key(one),
    ]
    assert len(set(keys)) == len(keys)
    assert all(key.startswith(names.prefix(one)) for key in keys)
    if one != other:
        assert not any(key.startswith(names.prefix(other)) for key in keys)
