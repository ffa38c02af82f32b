"""Frames on the socket between the supervisor and a runner.

A frame consists of a kind (1 byte), the length of a JSON header, the length of a body, the header and the
body. The supervisor does not trust data from a runner: anything that is not a frame raises ``FrameError``.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any, NamedTuple

#: Supervisor to runner: the calls of a bundle.
RUN = 1
#: Runner to supervisor: ready for bundles; an outcome that did not fit in shared memory; end of a bundle.
HELLO, OUTCOME, DONE = 2, 3, 4
#: Runner to supervisor: an item yielded by a call; all calls of a bundle have ended, DONE follows.
ITEM, RAN = 5, 6

_HEAD = struct.Struct("<BII")
_MAX_HEADER = 16 * 1024 * 1024
_MAX_BODY = 64 * 1024 * 1024
#: A body of this size (bytes) is received apart from its header instead of being copied out of both.
_LARGE_BODY = 64 * 1024


class FrameError(Exception):
    """The data on the socket is not a frame; the other side is broken or malicious."""


class Frame(NamedTuple):
    """One message: its kind, its header and its body."""

    kind: int
    header: dict[str, Any]
    body: bytes


def pack(kind: int, header: dict[str, Any], *parts: bytes) -> bytes:
    """Return a frame whose body is the concatenation of ``parts``."""
    return b"".join((*_beginning(kind, header, *parts), *parts))


def views(kind: int, header: dict[str, Any], *parts: bytes) -> list[memoryview]:
    """Like ``pack``, but return what is to be sent one after the other: a large last part is not copied."""
    if not parts or len(parts[-1]) < _LARGE_BODY:
        return [memoryview(pack(kind, header, *parts))]
    first = b"".join((*_beginning(kind, header, *parts), *parts[:-1]))
    return [memoryview(first), memoryview(parts[-1])]


def _beginning(kind: int, header: dict[str, Any], *parts: bytes) -> tuple[bytes, bytes]:
    """Return what is in a frame before its body."""
    raw = json.dumps(header, separators=(",", ":")).encode()
    return _HEAD.pack(kind, len(raw), sum(map(len, parts))), raw


class Reader:
    """Splits a byte stream into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Add ``data`` and return the frames that are now complete. Raises FrameError."""
        self._data += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        data = self._data
        if len(data) < _HEAD.size:
            return None
        kind, head, body = _HEAD.unpack_from(data)
        if kind not in (RUN, HELLO, OUTCOME, DONE, ITEM, RAN) or head > _MAX_HEADER or body > _MAX_BODY:
            raise FrameError(f"not a frame: kind {kind}, header of {head} bytes, body of {body} bytes")
        end = _HEAD.size + head + body
        if len(data) < end:
            return None
        try:
            header = json.loads(data[_HEAD.size : _HEAD.size + head])
        except (ValueError, RecursionError):
            raise FrameError("the header of a frame is not JSON") from None
        if not isinstance(header, dict):
            raise FrameError("the header of a frame is not a JSON object")
        with memoryview(data) as view:
            frame = Frame(kind, header, bytes(view[_HEAD.size + head : end]))
        del data[:end]
        return frame


def receive(sock: socket.socket) -> Frame | None:
    """Wait for one frame on a blocking socket; return None at the end of the stream. Raises FrameError."""
    head = _exactly(sock, _HEAD.size)
    if head is None:
        return None
    kind, size, body = _HEAD.unpack(head)
    if body < _LARGE_BODY:
        rest = _exactly(sock, size + body)
        return None if rest is None else Frame(kind, json.loads(rest[:size]), rest[size:])
    header, data = _exactly(sock, size), _exactly(sock, body)
    return None if header is None or data is None else Frame(kind, json.loads(header), data)


def _exactly(sock: socket.socket, size: int) -> bytes | None:
    """Return the next ``size`` bytes, None at the end of the stream; usually they are copied once."""
    pieces: list[bytes] = []
    while size:
        piece = sock.recv(size, socket.MSG_WAITALL)
        if not piece:
            return None
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
