"""Memory that the supervisor and one runner share, so that progress costs no system call per call.

The runner writes how far it is and each outcome; the supervisor reads both at any time, also after the
runner died: what was written before stays. The supervisor writes how far the runner may go and which
calls to skip.

Giving back must be exact: a call reported as returned has certainly not started. The runner first
writes "I start call i" and then looks at the limit; the supervisor first lowers the limit and, no
sooner than ``SETTLE`` later, looks at what has started. A processor may let a read overtake an
earlier write for some nanoseconds, never for ``SETTLE``, so one of the two always sees the other.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

#: Seconds between lowering the limit and believing what has started.
LIMIT_DELAY = 0.002
#: Bytes of one journal; pages are taken from the system only when they are written.
SIZE = 1024 * 1024
#: Most calls of one bundle that a journal can flag as skipped.
MAX_CALLS = 4096

SUCCEEDED, FAILED, SKIPPED = 0, 1, 2
#: Added to a status: the call wrote something, which has been marked as its own (see ``speech``).
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
    """One outcome as the runner wrote it; ``note`` is JSON with code, message and usage, or empty."""

    call: int
    status: int
    started: float
    wall: float
    details: bytes
    payload: bytes


def create(size: int = SIZE) -> int:
    """Return a file descriptor of fresh shared memory that no path leads to."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
        os.ftruncate(fd, size)
        return fd
    fd = os.memfd_create("umbel-progress", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    # a call that truncates whatever is open must not kill the supervisor when it looks here
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def protect(fd: int) -> None:
    """Runner: let nobody write through the descriptor, which Python keeps open; mappings go on."""
    if hasattr(fcntl, "F_ADD_SEALS"):
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE)
        except OSError:
            # Linux before 5.1: a call that writes to descriptors that are not its own harms its own bundle
            pass


class SharedProgress:
    """The shared memory behind ``fd``; either side makes its own object. The caller closes ``fd``."""

    def __init__(self, fd: int):
        self._size = os.fstat(fd).st_size
        self._map = mmap.mmap(fd, self._size)
        view = memoryview(self._map)
        self._words = view[:_FLAGS].cast("Q")
        self._times = view[:_FLAGS].cast("d")
        #: One byte per call, not 0: the runner shall skip it.
        self.skip = view[_FLAGS:_DATA]

    def reset(self, calls: int, now: float) -> None:
        """Make ready for a bundle of ``calls`` calls; only while the runner is idle."""
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
        """How many calls have started."""
        return self._words[_STARTED]

    @property
    def finished(self) -> int:
        """How many calls have finished; one is running when this is less than ``started``."""
        return self._words[_FINISHED]

    @property
    def loading(self) -> bool:
        """True while the runner loads the function, before the first call."""
        return bool(self._words[_LOADING])

    @property
    def began(self) -> float:
        """When the running call, or the loading of the function, began (monotonic clock).

        Read ``started`` first: then a call that begins in between looks young, never old.
        """
        return self._times[_BEGAN]

    @property
    def cpu(self) -> float:
        """Processor seconds that the runner had used when the running call began."""
        return self._times[_CPU]

    @property
    def output_reads(self) -> int:
        """How often the supervisor has taken what calls wrote."""
        return self._words[_OUTPUT_READS]

    @output_reads.setter
    def output_reads(self, value: int) -> None:
        self._words[_OUTPUT_READS] = value

    def load(self, loading: bool, now: float) -> None:
        """Runner: the function is being loaded, or is ready."""
        self._times[_BEGAN] = now
        self._words[_LOADING] = loading

    def start(self, index: int, now: float, cpu: float) -> bool:
        """Runner: start call ``index``; False when the supervisor has taken it away."""
        times, words = self._times, self._words
        times[_BEGAN] = now
        times[_CPU] = cpu
        words[_STARTED] = index + 1
        if words[_LIMIT] <= index:
            words[_STARTED] = index
            return False
        return True

    def finish(self, index: int) -> None:
        """Runner: call ``index`` is over and its outcome is written or sent."""
        self._words[_FINISHED] = index + 1

    def write(
        self, index: int, status: int, started: float, wall: float, details: bytes, payload: bytes
    ) -> bool:
        """Runner: write an outcome; False when there is no room for it."""
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
        # only now does the record exist: a runner that dies before leaves nothing half written
        self._words[_TAIL] = end - _DATA
        return True

    def read(self, position: int) -> Iterator[tuple[int, Record]]:
        """Supervisor: yield the records from ``position`` on, each with the position after it.

        A runner may write nonsense; reading stops where lengths do not fit.
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
        """Let go of the memory."""
        self._words.release()
        self._times.release()
        self.skip.release()
        self._map.close()
