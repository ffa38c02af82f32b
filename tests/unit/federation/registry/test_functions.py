from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from federation.context import Federation
from federation.registry import functions
from federation.registry.users import User
from umbel.protocol import limits
from umbel.protocol.errors import BadRequest, NotFound, TooLarge


def test_a_function_is_described_and_its_body_kept_back(fed: Federation, ada: User) -> None:
    made = functions.register(
        fed, ada, name="dock", body=b"abc", source="def dock(): ...", description="docks"
    )

    assert functions.get(fed, ada, made["id"]) == made
    assert made["sha256"] == hashlib.sha256(b"abc").hexdigest() and made["size"] == 3
    assert set(made) == {"id", "name", "description", "source", "sha256", "size", "created"} | {
        "environment",
        "limits",
        "local",
    }


def test_a_function_shows_its_limits(fed: Federation, ada: User) -> None:
    made = functions.register(fed, ada, name="dock", body=_with_head(b'{"limits": {"timeout": 1.5}}'))
    assert made["limits"] == {"timeout": 1.5} and made["environment"] is None
    assert functions.get(fed, ada, made["id"])["limits"] == {"timeout": 1.5}
    assert functions.page(fed, ada)[0][0]["limits"] == {"timeout": 1.5}
    huge = b'{"limits": {"memory": 1%b}}' % (b"0" * 400)  # not even a float is that large
    for bad in (
        b'{"limits": {"timeout": -1}}',
        b'{"limits": {"nodes": 1}}',
        b'{"limits": 3}',
        b'"limits"',
        huge,
    ):
        with pytest.raises(BadRequest, match="dock") as caught:
            functions.register(fed, ada, name="dock", body=_with_head(bad))
        assert caught.value.code == "VALIDATION_ERROR"


def test_a_function_shows_the_packages_that_travel_with_it(fed: Federation, ada: User) -> None:
    body = _with_head(b'{"local": ["mine", "mine.tools"]}')
    made = functions.register(fed, ada, name="dock", body=body)
    again = functions.register(fed, ada, name="dock", body=body)
    assert made["local"] == ["mine", "mine.tools"]
    assert functions.get(fed, ada, made["id"]) == made == again
    assert "local" not in functions.page(fed, ada)[0][0] and "body" not in made
    for bad in (b'{"local": 3}', b'{"local": [3]}', b'"local"'):
        made = functions.register(fed, ada, name="dock", body=_with_head(bad))
        assert made["local"] == [] == functions.get(fed, ada, made["id"])["local"]


def _with_head(head: bytes) -> bytes:
    return b"UMBF" + len(head).to_bytes(4, "big") + head


def test_the_same_body_is_the_same_function(fed: Federation, ada: User, bob: User) -> None:
    first, made = functions.ensure(fed, ada, name="dock", body=b"abc")
    again, made_again = functions.ensure(fed, ada, name="other", body=b"abc")
    others = functions.register(fed, bob, name="dock", body=b"abc")

    assert made and not made_again
    assert again == first
    assert others["id"] != first["id"]


def test_a_deleted_function_is_gone_and_may_come_back_as_another(fed: Federation, ada: User) -> None:
    first = functions.register(fed, ada, name="dock", body=b"abc")
    functions.delete(fed, ada, first["id"])

    with pytest.raises(NotFound) as caught:
        functions.get(fed, ada, first["id"])
    assert caught.value.code == "FUNCTION_NOT_FOUND"
    assert functions.page(fed, ada) == ([], None)
    assert functions.register(fed, ada, name="dock", body=b"abc")["id"] != first["id"]


@pytest.mark.parametrize("act", [functions.get, functions.delete])
def test_what_belongs_to_another_does_not_exist(
    fed: Federation, ada: User, bob: User, act: Callable[..., Any]
) -> None:
    made = functions.register(fed, ada, name="dock", body=b"abc")
    with pytest.raises(NotFound):
        act(fed, bob, made["id"])
    assert functions.get(fed, ada, made["id"]) == made


def test_too_large_a_body_is_refused(fed: Federation, ada: User) -> None:
    with pytest.raises(TooLarge) as caught:
        functions.register(fed, ada, name="big", body=bytes(limits.MAX_FUNCTION_BYTES + 1))
    assert caught.value.details["limit"] == limits.MAX_FUNCTION_BYTES


def test_pages_hold_every_function_once_newest_first(fed: Federation, ada: User, bob: User) -> None:
    made = [functions.register(fed, ada, name=f"f{i}", body=b"%d" % i)["id"] for i in range(5)]
    functions.register(fed, bob, name="his", body=b"his")

    seen: list[str] = []
    cursor, lengths = None, []
    while True:
        items, cursor = functions.page(fed, ada, limit=2, cursor=cursor)
        lengths.append(len(items))
        seen += [item["id"] for item in items]
        if cursor is None:
            break
        functions.register(fed, ada, name="meanwhile", body=cursor.encode())
    assert seen == made[::-1] and lengths == [2, 2, 1]


@pytest.mark.parametrize("cursor", ["", "g", "-1", "0x1", "1" * 17, "１"])
def test_a_cursor_of_ones_own_making_is_refused(fed: Federation, ada: User, cursor: str) -> None:
    with pytest.raises(BadRequest):
        functions.page(fed, ada, cursor=cursor)


def test_any_cursor_of_hexadecimal_digits_gives_a_page(fed: Federation, ada: User) -> None:
    functions.register(fed, ada, name="f", body=b"1")
    assert len(functions.page(fed, ada, cursor="f" * 16)[0]) == 1
    assert functions.page(fed, ada, cursor="0") == ([], None)
