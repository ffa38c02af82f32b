"""What calls write to descriptors 1 and 2: one pipe per runner, cut where one call ends and the next begins.

The runner looks after each call whether anything went through the pipe, which costs less than a microsecond
when nothing did; only then it writes a mark behind it. The supervisor empties the pipe as it looks at its
runners, and keeps the head and the tail of what each call wrote: whatever a call writes, neither memory nor
disk fills.
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

#: Bytes that the pipe holds where the system allows it: so much is written between two looks without waiting.
PIPE_BYTES = 256 * 1024
#: Bytes that the supervisor takes at one look, so that no runner keeps it from the others.
READ_BYTES = 2 * 1024 * 1024
#: After a look that took much, so many looks follow closely.
BUSY_READS = 50
_CHUNK = 64 * 1024
_SECRET_BYTES = 16
_INDEX = struct.Struct("<I")
_MARK_BYTES = _SECRET_BYTES + _INDEX.size
_NOTHING = bytes(4)


def _pending(fd: int, count: bytearray) -> bool:
    """Tell whether a pipe holds anything. ``count``: four bytes to work with."""
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count != _NOTHING


def open_pipe() -> tuple[int, int]:
    """Return the reading and the writing end of a pipe for what calls write."""
    reading, writing = os.pipe()
    try:
        # Linux; module fcntl does not name it before Python 3.10 on all systems
        fcntl.fcntl(writing, getattr(fcntl, "F_SETPIPE_SZ", 1031), PIPE_BYTES)
    except OSError:
        pass  # many runners of one account: the usual 64 KiB then
    return reading, writing


class OutputWriter:
    """The runner's end: descriptors 1 and 2 lead into the pipe, and calls are told apart in it."""

    def __init__(self, fd: int, progress: SharedProgress):
        self._progress = progress
        self._reads_seen = progress.output_reads
        self._count, self._level = bytearray(4), bytearray(4)
        #: what a mark begins with; user code cannot write it by accident
        self.secret = b"\0" + bytes(byte | 1 for byte in os.urandom(_SECRET_BYTES - 1))
        for standard in (1, 2):
            os.dup2(fd, standard)
        self._fd = fd
        self._identity = _identity(fd)
        for name, standard in (("stdout", 1), ("stderr", 2)):
            stream = open_stream(standard)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        #: writes out what ``print`` has not written yet
        self.flush = sys.stdout.flush

    def wrote(self) -> bool:
        """Tell whether anything was written since the last mark."""
        try:
            self.flush()
        except (ValueError, OSError):
            pass  # the call has closed it
        try:
            fcntl.ioctl(1, termios.FIONREAD, self._count)
        except OSError:
            return True  # the call has closed it, and may have spoken before
        # in this order: the supervisor counts before it takes
        return self._count != self._level or self._progress.output_reads != self._reads_seen

    def mark(self, index: int) -> bool:
        """Say that what was written up to here is that of call ``index``."""
        if not self.repair():
            return False
        try:
            os.write(self._fd, self.secret + _INDEX.pack(index))
        except OSError:
            return False
        # in this order: what the supervisor takes meanwhile makes a silent call be marked, never a loud one
        # be missed
        self._reads_seen = self._progress.output_reads
        fcntl.ioctl(self._fd, termios.FIONREAD, self._level)
        return True

    def repair(self) -> bool:
        """Lead descriptors 1 and 2 into the pipe where a call has closed them; False if it cannot be."""
        for fd in (1, 2):
            if not self._is_pipe(fd):
                if not self._is_pipe(self._fd):
                    return False  # closed by the call, too, and perhaps somebody's file now
                os.dup2(self._fd, fd)
        return True

    def _is_pipe(self, fd: int) -> bool:
        """Tell whether a descriptor leads into the pipe."""
        try:
            return _identity(fd) == self._identity
        except OSError:
            return False


def open_stream(fd: int) -> TextIO:
    """A standard stream on ``fd``: line by line, for whoever follows a call, in whatever language."""
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
        """Take what comes next."""
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
        """What is kept of it."""
        tail = self._tail[max(0, len(self._tail) - self._most_tail) :]
        return Log(bytes(self._head), bytes(tail), self.total)


class OutputReader:
    """The supervisor's end of one runner's pipe, ``fd``, which it owns."""

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
        """The runner has said what its marks begin with."""
        if isinstance(secret, str) and len(secret) == 2 * _SECRET_BYTES:
            self._secret = bytes.fromhex(secret)

    def begin(self, most: int) -> None:
        """A bundle begins, of each call ``most`` bytes are kept: forget the one before."""
        self.read_pipe()
        self._most = most
        self._rest = b""
        self._current = Excerpt(most)
        self._logs.clear()

    def read_pipe(self, most: int = READ_BYTES) -> None:
        """Take what is in the pipe, up to ``most`` bytes."""
        taken = 0
        while taken < most and _pending(self._fd, self._count):
            # the runner must see that something was taken before it can see that nothing is there
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
        """True while much is written: look again soon, or the call waits for a place in the pipe."""
        return self._busy_reads > 0

    def take(self, index: int) -> Log | None:
        """What a call wrote that has ended with a mark; None if it is not known."""
        if index not in self._logs:
            # its mark was written before its outcome, so it is in the pipe, which holds less than one look
            # takes
            self.read_pipe()
        log = self._logs.pop(index, None)
        return log if log is not None and log.total else None

    def so_far(self) -> Log | None:
        """What the running call has written so far."""
        return self._current.log() if self._current.total else None

    @property
    def total(self) -> int:
        """How many bytes the running call has written so far."""
        return self._current.total

    def final_output(self) -> Log | None:
        """All that is in a dead runner's pipe: the log of the call that it was in."""
        self.read_pipe()
        self._current.add(self._rest)
        self._rest = b""
        return self.so_far()

    def close(self) -> None:
        """Let go of the pipe."""
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
        # a mark may be cut in two
        end = data.find(b"\0", max(begin, len(data) - _MARK_BYTES + 1))
        if end < 0:
            end = len(data)
        self._current.add(memoryview(data)[begin:end])
        self._rest = data[end:]
