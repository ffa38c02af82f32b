"""Mutations of bytes and of JSON in them, reproducible by seed."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

#: JSON values of other types, and at the limits of types.
_VALUES = [
    *(b"null", b"true", b"false", b"{}", b"[]", b'""', b"0", b"-1", b"1e999", b"-1e999", b"NaN", b"Infinity"),
    *(b"1.5", b"1e-400", b"32768", b"65537", b"2147483648", b"9007199254740993", b"18446744073709551616"),
    *(
        b"9" * 400,
        b"-" + b"9" * 400,
        b'"\\ud800"',
        b'"\\u0000"',
        b'"\\ud800\\udc00"',
        b'"' + b"x" * 300 + b'"',
    ),
    *(b"[" * 50 + b"]" * 50, b"[" * 2000, b'{"a":' * 50 + b"1" + b"}" * 50, b"[[],[],[]]", b'[1,"a",null]'),
]
_BYTES = [
    b"\x00",
    b"\xff",
    b"\x80",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\",
    b"\xff\xff\xff\xff",
    b"UMB1",
]
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|null|true|false|\[[^][]*\]')


def mutations(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Yield ``count`` inputs: each is one of ``seeds`` with one to four changes."""
    chance = random.Random(seed)
    for _ in range(count):
        data = chance.choice(seeds)
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            data = _changed(data, chance)
        yield data


def _changed(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.6:
        tokens = list(_TOKEN.finditer(data))
        if tokens:
            found = chance.choice(tokens)
            other = chance.choice(tokens)[0] if chance.random() < 0.2 else chance.choice(_VALUES)
            return data[: found.start()] + other + data[found.end() :]
    at = chance.randrange(len(data) + 1)
    kind = chance.randrange(5)
    if kind == 0:
        return data[:at] + chance.choice(_BYTES) + data[at:]
    if kind == 1:
        return data[:at] + chance.choice(_BYTES) + data[at + 1 :]
    if kind == 2:
        return data[:at] + data[at + chance.randrange(1, 20) :]
    if kind == 3:
        return data[:at]
    return data[:at] + data[chance.randrange(len(data) + 1) :]
