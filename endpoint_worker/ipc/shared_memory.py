"""Memory shared by the supervisor and one runner, so that progress costs no system call per call.

The runner writes its progress and each outcome. The supervisor can read both at any time, even after the
runner has died. The supervisor writes how far the runner may proceed and which calls to skip.

Returning calls must be exact: a call reported as returned has certainly not started. The runner first writes
that it starts call i and then reads the limit. The supervisor first lowers the limit and reads the started
count no sooner than ``LIMIT_DELAY`` later. A processor may reorder a read before an earlier write for some
nanoseconds, never for ``LIMIT_DELAY``, so at least one of the two sees the other's write.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

#: Seconds between lowering the limit and trusting the started count.
LIMIT_DELAY = 0.002
#: Size of the shared memory in bytes; the system allocates pages only when they are written.
SIZE = 1024 * 1024
#: Maximum number of calls of one bundle that can be flagged as skipped.
MAX_CALLS = 4096

SUCCEEDED, FAILED, SKIPPED = 0, 1, 2
#: Added to a status: the call wrote output, which is marked in the pipe (see ``output``).
WROTE = 0x40

_LIMIT, _STARTED, _FINISHED, _TAIL, _LOADING = range(5)
_BEGAN, _CPU = 5, 6
_OUTPUT_READS = 7
_FLAGS = 64
_DATA = _FLAGS + MAX_CALLS
#: Linux 5.1; not in module fcntl before Python 3.13.
_F_SEAL_FUTURE_WRITE = 0x0010
_RECORD = struct.Struct("<IBddII")


class Record(NamedTuple):
    """One outcome as written by the runner; ``details`` is JSON with code, message and usage, or empty."""

    call: int
    status: int
    started: float
    wall: float
    details: bytes
    payload: bytes


def create(size: int = SIZE) -> int:
    """Return a file descriptor of new anonymous shared memory."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
        os.ftruncate(fd, size)
        return fd
    fd = os.memfd_create("umbel-progress", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        # a call that truncates every open file must not crash the supervisor when it reads this memory
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except BaseException:
        os.close(fd)
        raise
    return fd


def protect(fd: int) -> None:
    """Runner: forbid writing through the descriptor, which Python keeps open; mappings still work."""
    if hasattr(fcntl, "F_ADD_SEALS"):
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE)
        except OSError:
            # Linux before 5.1: a call that writes to descriptors it does not own can only damage its own
            # bundle
            pass


class SharedProgress:
    """The shared memory behind ``fd``; each side creates its own object. The caller closes ``fd``."""

    def __init__(self, fd: int):
        self._size = os.fstat(fd).st_size
        self._map = mmap.mmap(fd, self._size)
        view = memoryview(self._map)
        self._words = view[:_FLAGS].cast("Q")
        self._times = view[:_FLAGS].cast("d")
        #: One byte per call; non-zero: the runner skips the call.
        self.skip = view[_FLAGS:_DATA]

    def reset(self, calls: int, now: float) -> None:
        """Prepare for a bundle of ``calls`` calls; only while the runner is idle."""
        words = self._words
        words[_STARTED] = words[_FINISHED] = words[_TAIL] = 0
        words[_LIMIT] = calls
        words[_LOADING] = 0
        self._times[_BEGAN] = now
        count = min(calls, MAX_CALLS)
        self.skip[:count] = bytes(count)

    @property
    def limit(self) -> int:
        """The runner starts only calls with a smaller index."""
        return self._words[_LIMIT]

    @limit.setter
    def limit(self, value: int) -> None:
        self._words[_LIMIT] = value

    @property
    def started(self) -> int:
        """Number of calls that have started."""
        return self._words[_STARTED]

    @property
    def finished(self) -> int:
        """Number of calls that have finished; one is running if this is less than ``started``."""
        return self._words[_FINISHED]

    @property
    def loading(self) -> bool:
        """True while the runner loads the function, before the first call."""
        return bool(self._words[_LOADING])

    @property
    def began(self) -> float:
        """Start of the running call, or of loading the function (monotonic clock).

        Read ``started`` first: a call that starts between the two reads then looks young, never old.
        """
        return self._times[_BEGAN]

    @property
    def cpu(self) -> float:
        """Processor seconds that the runner had used when the running call began."""
        return self._times[_CPU]

    @property
    def output_reads(self) -> int:
        """Number of times that the supervisor has read output of calls."""
        return self._words[_OUTPUT_READS]

    @output_reads.setter
    def output_reads(self, value: int) -> None:
        self._words[_OUTPUT_READS] = value

    def load(self, loading: bool, now: float) -> None:
        """Runner: set whether the function is being loaded."""
        self._times[_BEGAN] = now
        self._words[_LOADING] = loading

    def start(self, index: int, now: float, cpu: float) -> bool:
        """Runner: start call ``index``; return False if the supervisor has withdrawn it."""
        times, words = self._times, self._words
        times[_BEGAN] = now
        times[_CPU] = cpu
        words[_STARTED] = index + 1
        if words[_LIMIT] <= index:
            words[_STARTED] = index
            return False
        return True

    def finish(self, index: int) -> None:
        """Runner: call ``index`` has ended and its outcome is written or sent."""
        self._words[_FINISHED] = index + 1

    def write(
        self, index: int, status: int, started: float, wall: float, details: bytes, payload: bytes
    ) -> bool:
        """Runner: write an outcome; return False if it does not fit."""
        tail = self._words[_TAIL]
        begin = _DATA + tail
        body = begin + _RECORD.size
        end = body + len(details) + len(payload)
        if end > self._size:
            return False
        memory = self._map
        _RECORD.pack_into(memory, begin, index, status, started, wall, len(details), len(payload))
        if details:
            memory[body : body + len(details)] = details
        memory[end - len(payload) : end] = payload
        # the record becomes valid only now: a runner that dies earlier leaves no partial record
        self._words[_TAIL] = end - _DATA
        return True

    def read(self, position: int) -> Iterator[tuple[int, Record]]:
        """Supervisor: yield the records from ``position`` on, each with the position after it.

        A runner may write garbage: reading stops at lengths that exceed the memory.
        """
        tail = min(self._words[_TAIL], self._size - _DATA)
        while position + _RECORD.size <= tail:
            begin = _DATA + position
            index, status, started, wall, details, payload = _RECORD.unpack_from(self._map, begin)
            body = begin + _RECORD.size
            end = body + details + payload
            if end > _DATA + tail:
                return
            position = end - _DATA
            record = Record(
                index,
                status,
                started,
                wall,
                self._map[body : body + details],
                self._map[body + details : end],
            )
            yield position, record

    def close(self) -> None:
        """Release the memory."""
        self._words.release()
        self._times.release()
        self.skip.release()
        self._map.close()
