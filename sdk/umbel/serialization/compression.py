"""Compression of large payloads that shrink enough.

The process that makes a payload compresses it and the process that reads it decompresses it. In between it is
sent and stored compressed.
"""

from __future__ import annotations

import os
import zlib

from ..exceptions import DeserializeError
from ..protocol.limits import MAX_PAYLOAD_BYTES

#: First byte of compressed data.
COMPRESSED = b"Z"
#: Smaller payloads (bytes) are not compressed: they travel inside their message, and time matters more.
MIN_SIZE = 64 * 1024
#: The sample that is compressed first: number of pieces, spread over the payload, and their size (bytes).
SAMPLE_PIECES, SAMPLE_PIECE_SIZE = 4, 1024
#: Share of the size that compression must save.
MIN_SAVING = 0.2
#: zlib's window (a power of 2) and memory for the sample: setting up the defaults takes longer than
#: compressing the sample.
SAMPLE_WINDOW, SAMPLE_MEMORY = 12, 5
#: zlib's fastest level: a third of the time of its default for a tenth more bytes.
LEVEL = 1
#: Largest decompressed size (bytes): data from an endpoint must not exhaust the memory.
MAX_DECOMPRESSED = 256 * 1024**2
#: Environment variable that sets another limit (bytes) in this process.
LIMIT_VARIABLE = "UMBEL_MAX_DECOMPRESSED"
#: Data that shrinks by a larger factor is an attack, if it is not small. ``compress`` stays below it: its
#: level achieves 230 with the usual zlib, and the output of other implementations is padded.
MAX_RATIO, SMALL = 300, 1024**2


def compress(data: bytes) -> bytes:
    """Return ``data``, compressed if it is large and a sample of it shrinks enough."""
    if len(data) < MIN_SIZE or len(data) > max_decompressed():
        return data
    if not _is_compressible(data):
        return data
    compressed = COMPRESSED + zlib.compress(data, LEVEL)
    # zeros after the end of the stream, which the reader ignores
    compressed = compressed.ljust(len(data) // MAX_RATIO + 1, b"\0")
    return compressed if len(compressed) < len(data) * (1 - MIN_SAVING) else data


def _is_compressible(data: bytes) -> bool:
    """Return whether a sample of ``data`` shrinks enough."""
    step = len(data) // SAMPLE_PIECES
    starts = range((step - SAMPLE_PIECE_SIZE) // 2, len(data), step)
    sample = b"".join([data[start : start + SAMPLE_PIECE_SIZE] for start in starts])
    writer = zlib.compressobj(LEVEL, zlib.DEFLATED, -SAMPLE_WINDOW, SAMPLE_MEMORY)
    return len(writer.compress(sample) + writer.flush()) <= len(sample) * (1 - MIN_SAVING)


def decompress(data: bytes | memoryview) -> bytes | memoryview:
    """Return the argument of ``compress`` from its result. Raises DeserializeError."""
    if data[:1] != COMPRESSED:
        return data
    limit = min(max_decompressed(), max(MAX_RATIO * len(data), SMALL))
    reader = zlib.decompressobj()
    try:
        plain = reader.decompress(memoryview(data)[1:], limit + 1)
    except zlib.error as error:
        raise DeserializeError(f"compressed data is damaged: {error}") from error
    if not reader.eof or len(plain) > limit:
        raise DeserializeError(
            f"compressed data of {len(data):,} bytes is truncated, or contains more than {limit:,} bytes: "
            f"return or pass less, or set {LIMIT_VARIABLE} (bytes) where it is read"
        )
    return plain


def describe_limit(size: int) -> str:
    """Return the limit of a payload of ``size`` bytes for messages: what is too large is not compressed."""
    limit = f"the limit is {MAX_PAYLOAD_BYTES:,}"
    if size <= max_decompressed():
        return f"{limit} after compression"
    return f"{limit} after compression, and nothing above {max_decompressed():,} is compressed"


def max_decompressed() -> int:
    """Return the largest decompressed size (bytes) that this process accepts."""
    try:
        return int(os.environ[LIMIT_VARIABLE])
    except (KeyError, ValueError):
        return MAX_DECOMPRESSED
