"""Compression of large payloads, where it pays.

Who makes a payload squeezes it and who reads it unsqueezes it: in between it travels and is stored as it is,
through however many hands.
"""

from __future__ import annotations

import zlib

from ..exceptions import DeserializeError

#: First byte of squeezed bytes.
SQUEEZED = b"Z"
#: Smaller payloads (bytes) are left alone: they travel inside their message, and time matters more.
SQUEEZE_FROM = 64 * 1024
#: So many pieces of so many bytes, spread over the payload, are tried first; the share that must be saved.
PIECES, PIECE, PAYS = 4, 1024, 0.2
#: zlib's window and memory for the sample (the former's size is 2 to its power): the usual ones cost more to
#: set up than the sample takes.
WINDOW, MEMORY = 12, 5
#: zlib's fastest level: a third of the time of its default for a tenth more bytes.
LEVEL = 1
#: Most bytes that may come out: squeezed bytes of a stranger must not fill the memory.
MOST = 1024**3


def squeeze(data: bytes) -> bytes:
    """Return ``data``, squeezed if it is large and a sample of it promises to pay."""
    if len(data) < SQUEEZE_FROM:
        return data
    if not _promises(data):
        return data
    squeezed = SQUEEZED + zlib.compress(data, LEVEL)
    return squeezed if len(squeezed) < len(data) * (1 - PAYS) else data


def _promises(data: bytes) -> bool:
    """Tell whether a sample of ``data`` shrinks enough."""
    step = len(data) // PIECES
    starts = range((step - PIECE) // 2, len(data), step)
    sample = b"".join([data[start : start + PIECE] for start in starts])
    writer = zlib.compressobj(LEVEL, zlib.DEFLATED, -WINDOW, MEMORY)
    return len(writer.compress(sample) + writer.flush()) <= len(sample) * (1 - PAYS)


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
