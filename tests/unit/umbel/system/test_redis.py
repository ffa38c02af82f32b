"""Commands are encoded the same, however large their arguments are."""

from __future__ import annotations

from typing import Any

import pytest
from redis.connection import HiredisRespSerializer

from umbel.system.redis import LARGE, Packer

PACKER = Packer(HiredisRespSerializer().pack)


@pytest.mark.parametrize("size", [0, 100, LARGE - 1, LARGE, 1_000_000])
@pytest.mark.parametrize("more", [(), ("EX", 100, 1.5, "\N{SNOWMAN}", b"last")])
def test_commands_are_encoded_as_hiredis_does(size: int, more: tuple[Any, ...]) -> None:
    command = ("SET", "key", bytes(size), *more)
    assert b"".join(PACKER.pack(*command)) == b"".join(HiredisRespSerializer().pack(*command))
    assert b"".join(PACKER.pack("CONFIG GET", bytes(size))).startswith(b"*3\r\n$6\r\nCONFIG\r\n")


def test_a_large_argument_is_not_copied() -> None:
    data = bytes(LARGE)
    assert any(piece is data for piece in PACKER.pack("SET", "key", data))


@pytest.mark.parametrize("value", [None, True, [1]])
def test_what_is_no_argument_is_rejected_beside_a_large_one(value: Any) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        PACKER.pack("SET", "key", bytes(LARGE), value)
