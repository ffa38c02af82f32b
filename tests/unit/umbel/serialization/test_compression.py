"""Large payloads are compressed once, if they shrink enough, and are restored exactly."""

from __future__ import annotations

import random
import zlib

import pytest

from umbel.exceptions import DeserializeError
from umbel.serialization import compression
from umbel.serialize import dump_call, dump_result, load_call, load_result

TEXT = ("the quick brown fox %d\n" * 20_000) % tuple(range(20_000))
NOISE = random.Random(1).randbytes(300_000)


def test_text_travels_compressed():
    data = dump_result(TEXT)
    assert len(data) < len(TEXT) / 2
    assert load_result(data) == TEXT


def test_arguments_travel_compressed():
    class Own:
        text = TEXT

    for args in ((TEXT,), ([TEXT],), (Own(),)):
        data = dump_call(args, {"k": 1})
        assert len(data) < len(TEXT) / 2
        loaded, kwargs = load_call(data)
        assert kwargs == {"k": 1}
        assert getattr(loaded[0], "text", None) == TEXT or loaded == args


def test_noise_and_small_things_are_left_alone():
    for value in (NOISE, b"a" * 1000):
        data = dump_result(value)
        assert data[:1] == b"P" and load_result(data) == value


def test_sample_that_misleads_is_noticed(monkeypatch):
    monkeypatch.setattr(compression, "SAMPLE_PIECES", 1)
    data = NOISE[:200_000] + b"a" * 2 * compression.SAMPLE_PIECE_SIZE + NOISE[-200_000:]
    assert compression._is_compressible(data)
    assert compression.compress(data) == data


def test_the_sample_is_of_all_the_payload():
    half = NOISE[:150_000] + b"a" * 150_000
    assert len(compression.compress(half)) < len(half) * 0.6
    assert len(compression.compress(half[::-1])) < len(half) * 0.6


@pytest.mark.parametrize("extra", range(9))
def test_any_length(extra):
    data = b"a" * (compression.MIN_SIZE + extra)
    assert compression.decompress(compression.compress(data)) == data


@pytest.mark.parametrize("cut", [1, 2, 50, -1])
def test_damaged_bytes_are_refused(cut):
    data = dump_result(TEXT)
    with pytest.raises(DeserializeError):
        load_result(data[:cut])


@pytest.mark.parametrize("size", [1000, 1001, 100_000])
def test_too_much_is_refused(monkeypatch, size):
    monkeypatch.setattr(compression, "MAX_DECOMPRESSED", 1000)
    data = b"Z" + zlib.compress(bytes(size))
    if size == 1000:
        assert compression.decompress(data) == bytes(size)
        return
    with pytest.raises(DeserializeError, match="1,000"):
        compression.decompress(data)
    monkeypatch.setenv(compression.LIMIT_VARIABLE, "200000")
    assert compression.decompress(data) == bytes(size)


def test_a_bomb_is_refused_by_its_ratio_before_the_absolute_limit():
    bomb = b"Z" + zlib.compress(bytes(30_000_000), 9)
    assert 30_000_000 > compression.MAX_RATIO * len(bomb)
    with pytest.raises(DeserializeError):
        load_result(bomb)
    # what compress() makes of the most compressible data is accepted
    zeros = bytes(30_000_000)
    data = dump_result(zeros)
    assert data[:1] == compression.COMPRESSED and load_result(data) == zeros


def test_nested_compression_is_refused():
    inner = compression.compress(b"P" + bytes(1_000_000))
    with pytest.raises(DeserializeError):
        load_result(b"Z" + zlib.compress(inner))


def test_what_is_too_large_to_be_read_is_not_compressed(monkeypatch):
    monkeypatch.setattr(compression, "MAX_DECOMPRESSED", 100_000)
    assert compression.compress(bytes(100_001)) == bytes(100_001)
