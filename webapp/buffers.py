"""Large bodies in memory, without the copies that waitress's buffers make."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from waitress.buffers import ReadOnlyFileBasedBuffer

#: Key of the environment of a request under which its body lies as one view, if it is in memory.
BODY_KEY = "umbel.body"
#: Pieces of a response below this size are joined, bytes.
SMALL_PIECE = 64 * 1024


class Received:
    """The body of a request of a known size, as it arrives; in place of waitress's ``OverflowableBuffer``."""

    def __init__(self, size: int):
        self._data = bytearray(size)
        self._filled = 0

    def __len__(self) -> int:
        return self._filled

    def append(self, data: bytes) -> None:
        """Add what has arrived."""
        end = self._filled + len(data)
        self._data[self._filled : end] = data
        self._filled = end

    @property
    def view(self) -> memoryview:
        """What has arrived so far."""
        return memoryview(self._data).toreadonly()[: self._filled]

    def getfile(self) -> io.BytesIO:
        """Return the body as a file."""
        return io.BytesIO(self.view)

    def close(self) -> None:
        """Release the memory, unless something still refers to the view."""
        self._data = bytearray()
        self._filled = 0


def merged(pieces: Sequence[bytes]) -> list[bytes]:
    """Join small neighbors, because each piece that is sent is a system call; leave out empty ones."""
    found: list[bytes] = []
    for small, group in groupby(pieces, lambda piece: len(piece) < SMALL_PIECE):
        found += [b"".join(group)] if small else group
    return [piece for piece in found if piece]


class Pieces(ReadOnlyFileBasedBuffer):
    """The body of a response, sent piece by piece from where it lies; waitress takes it like a file."""

    def __init__(self, pieces: Sequence[bytes]):
        self._pieces = [memoryview(piece) for piece in reversed(merged(pieces))]
        self.remain = sum(map(len, self._pieces))

    def prepare(self, size: int | None = None) -> int:
        """Return the number of bytes to be sent."""
        return self.remain

    def get(self, numbytes: int = -1, skip: bool = False) -> Any:
        """Return bytes to be sent next."""
        if not self._pieces:
            return b""
        first = self._pieces[-1]
        found = first if numbytes < 0 else first[:numbytes]
        if skip:
            self.skip(len(found))
        return found

    def skip(self, numbytes: int, allow_prune: int = 0) -> None:
        """Forget bytes that were sent."""
        self.remain -= numbytes
        while numbytes:
            first = self._pieces.pop()
            if numbytes < len(first):
                self._pieces.append(first[numbytes:])
                return
            numbytes -= len(first)

    def close(self) -> None:
        """Forget the rest."""
        self._pieces = []
        self.remain = 0

    def __iter__(self) -> Any:
        """Yield the pieces, for a server that does not know this class."""
        return map(bytes, self._pieces[::-1])
