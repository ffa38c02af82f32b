"""Compression of large payloads, where it pays.

Who makes a payload squeezes it and who reads it unsqueezes it: in between it travels and is stored as it is,
through however many hands.
"""

from __future__ import annotations

import zlib

from .exceptions import DeserializeError

#: First byte of squeezed bytes.
SQUEEZED = b"Z"
#: Smaller payloads (bytes) are left alone: they travel inside their message, and time matters more.
SQUEEZE_FROM = 64 * 1024
#: Bytes out of the middle that are tried first, and the share of them that must be saved.
SAMPLE, PAYS = 16 * 1024, 0.2
#: zlib's fastest level: a third of the time of its default for a tenth more bytes.
LEVEL = 1
#: Most bytes that may come out: squeezed bytes of a stranger must not fill the memory.
MOST = 1024**3


def squeeze(data: bytes) -> bytes:
    """Return ``data``, squeezed if it is large and a sample of it promises to pay."""
    if len(data) < SQUEEZE_FROM:
        return data
    middle = (len(data) - SAMPLE) // 2
    if len(zlib.compress(data[middle : middle + SAMPLE], LEVEL)) > SAMPLE * (1 - PAYS):
        return data
    squeezed = SQUEEZED + zlib.compress(data, LEVEL)
    return squeezed if len(squeezed) < len(data) * (1 - PAYS) else data


def unsqueeze(data: bytes) -> bytes:
    """Return what ``squeeze`` was given. Raises DeserializeError."""
    if data[:1] != SQUEEZED:
        return data
    reader = zlib.decompressobj()
    try:
        plain = reader.decompress(memoryview(data)[1:], MOST)
    except zlib.error as error:
        raise DeserializeError(f"squeezed bytes are damaged: {error}") from error
    if not reader.eof:
        raise DeserializeError(f"squeezed bytes end too early, or hold more than {MOST:,} bytes")
    return plain
