"""Output that calls write to descriptors 1 and 2: one pipe per runner, split at the end of each call.

After each call the runner checks whether anything was written to the pipe, which costs less than a
microsecond if nothing was. Only if something was written does it add a mark. The supervisor empties the pipe
whenever it checks its runners and keeps the head and the tail of each call's output, so output fills neither
memory nor disk.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import termios
from typing import Any, TextIO

from umbel.protocol.records import Log

from .shared_memory import MAX_CALLS, SharedProgress

#: Size of the pipe in bytes where the system allows it: calls can write this much between two reads without
#: blocking.
PIPE_BYTES = 256 * 1024
#: Maximum bytes that the supervisor reads from one runner at a time, so that no runner blocks the others.
READ_BYTES = 2 * 1024 * 1024
#: Number of closely spaced reads after a read that returned much output.
BUSY_READS = 50
_CHUNK = 64 * 1024
_SECRET_BYTES = 16
_INDEX = struct.Struct("<I")
_MARK_BYTES = _SECRET_BYTES + _INDEX.size
_NOTHING = bytes(4)


def _pending(fd: int, count: bytearray) -> bool:
    """Return whether a pipe contains data. ``count``: a work buffer of four bytes."""
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count != _NOTHING


def open_pipe() -> tuple[int, int]:
    """Return the read end and the write end of a pipe for the output of calls."""
    reading, writing = os.pipe()
    try:
        # Linux; module fcntl does not define it before Python 3.10 on all systems
        fcntl.fcntl(writing, getattr(fcntl, "F_SETPIPE_SZ", 1031), PIPE_BYTES)
    except OSError:
        pass  # pipe quota of the account exceeded: keep the default of 64 KiB
    return reading, writing


class OutputWriter:
    """The runner's end: connects descriptors 1 and 2 to the pipe and marks where each call ends."""

    def __init__(self, fd: int, progress: SharedProgress):
        self._progress = progress
        self._reads_seen = progress.output_reads
        self._count, self._level = bytearray(4), bytearray(4)
        #: first bytes of a mark; user code cannot write them by accident
        self.secret = b"\0" + bytes(byte | 1 for byte in os.urandom(_SECRET_BYTES - 1))
        for standard in (1, 2):
            os.dup2(fd, standard)
        self._fd = fd
        self._identity = _identity(fd)
        for name, standard in (("stdout", 1), ("stderr", 2)):
            stream = open_stream(standard)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        #: writes out what ``print`` has buffered
        self.flush = sys.stdout.flush

    def wrote(self) -> bool:
        """Return whether anything was written since the last mark."""
        try:
            self.flush()
        except (ValueError, OSError):
            pass  # closed by the call
        try:
            fcntl.ioctl(1, termios.FIONREAD, self._count)
        except OSError:
            return True  # closed by the call, which may have written before
        # order matters: the supervisor increments the counter before it reads
        return self._count != self._level or self._progress.output_reads != self._reads_seen

    def mark(self, index: int) -> bool:
        """Mark everything written so far as output of call ``index``."""
        if not self.repair():
            return False
        try:
            os.write(self._fd, self.secret + _INDEX.pack(index))
        except OSError:
            return False
        # order matters: a concurrent read by the supervisor may cause an extra mark, never a missing one
        self._reads_seen = self._progress.output_reads
        fcntl.ioctl(self._fd, termios.FIONREAD, self._level)
        return True

    def repair(self) -> bool:
        """Reconnect descriptors 1 and 2 to the pipe if a call has closed them; return False if impossible."""
        for fd in (1, 2):
            if not self._is_pipe(fd):
                if not self._is_pipe(self._fd):
                    return False  # also closed by the call; the number may now belong to another file
                os.dup2(self._fd, fd)
        return True

    def _is_pipe(self, fd: int) -> bool:
        """Return whether a descriptor refers to the pipe."""
        try:
            return _identity(fd) == self._identity
        except OSError:
            return False


def open_stream(fd: int) -> TextIO:
    """Return a line-buffered UTF-8 stream on ``fd``, so that output can be followed in any locale."""
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


class Excerpt:
    """Head and tail of a stream: at most ``most`` bytes, half of them from its beginning."""

    def __init__(self, most: int):
        self.total = 0
        self._most_tail = most // 2
        self._most_head = most - self._most_tail
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """Append ``data``."""
        self.total += len(data)
        room = self._most_head - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if len(data) >= self._most_tail:
            self._tail[:] = data[len(data) - self._most_tail :]
        elif data:
            self._tail += data
            if len(self._tail) > 2 * self._most_tail:
                del self._tail[: -self._most_tail]

    def log(self) -> Log:
        """Return the kept head and tail."""
        tail = self._tail[max(0, len(self._tail) - self._most_tail) :]
        return Log(bytes(self._head), bytes(tail), self.total)


class OutputReader:
    """The supervisor's end of one runner's pipe; owns ``fd``."""

    def __init__(self, fd: int, progress: SharedProgress):
        os.set_blocking(fd, False)
        self._fd = fd
        self._progress = progress
        self._secret = b""
        self._most = 0
        self._rest = b""
        self._current = Excerpt(0)
        self._logs: dict[int, Log] = {}
        self._count = bytearray(4)
        self._busy_reads = 0

    def set_secret(self, secret: Any) -> None:
        """Store the prefix of marks, as received from the runner."""
        if isinstance(secret, str) and len(secret) == 2 * _SECRET_BYTES:
            self._secret = bytes.fromhex(secret)

    def begin(self, most: int) -> None:
        """Start a new bundle, keeping up to ``most`` bytes per call; discard the previous bundle's output."""
        self.read_pipe()
        self._most = most
        self._rest = b""
        self._current = Excerpt(most)
        self._logs.clear()

    def read_pipe(self, most: int = READ_BYTES) -> None:
        """Read up to ``most`` bytes from the pipe."""
        taken = 0
        while taken < most and _pending(self._fd, self._count):
            # the counter changes first: the runner must not see an empty pipe with an old counter
            self._progress.output_reads = (self._progress.output_reads + 1) & 0xFFFFFFFF
            try:
                data = os.read(self._fd, _CHUNK)
            except BlockingIOError:
                break
            taken += len(data)
            self._feed(data)
        self._busy_reads = BUSY_READS if taken >= _CHUNK else max(0, self._busy_reads - 1)

    @property
    def busy(self) -> bool:
        """True while a call writes much output and should be read again soon, before the pipe is full."""
        return self._busy_reads > 0

    def take(self, index: int) -> Log | None:
        """Return the output of a call that ended with a mark; None if there is none."""
        if index not in self._logs:
            # the mark was written before the outcome, so it is in the pipe, which holds less than one read
            # takes
            self.read_pipe()
        log = self._logs.pop(index, None)
        return log if log is not None and log.total else None

    def so_far(self) -> Log | None:
        """Return the output of the running call so far."""
        return self._current.log() if self._current.total else None

    @property
    def total(self) -> int:
        """Bytes that the running call has written so far."""
        return self._current.total

    def final_output(self) -> Log | None:
        """Read the rest of a dead runner's pipe; return the output of the call it was running."""
        self.read_pipe()
        self._current.add(self._rest)
        self._rest = b""
        return self.so_far()

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._fd)

    def _feed(self, data: bytes) -> None:
        data = self._rest + data
        begin = 0
        while self._secret and (at := data.find(self._secret, begin)) >= 0 and len(data) >= at + _MARK_BYTES:
            self._current.add(memoryview(data)[begin:at])
            (index,) = _INDEX.unpack_from(data, at + _SECRET_BYTES)
            if index < MAX_CALLS:
                self._logs[index] = self._current.log()
            self._current = Excerpt(self._most)
            begin = at + _MARK_BYTES
        # a mark may be split between two reads
        end = data.find(b"\0", max(begin, len(data) - _MARK_BYTES + 1))
        if end < 0:
            end = len(data)
        self._current.add(memoryview(data)[begin:end])
        self._rest = data[end:]
