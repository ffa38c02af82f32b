"""The memory that supervisor and runner share, and the frames between them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from endpoint_worker.ipc import frames, shared_memory
from endpoint_worker.ipc.shared_memory import FAILED, SUCCEEDED, SharedProgress


@pytest.fixture
def sides() -> Iterator[tuple[SharedProgress, SharedProgress]]:
    """Supervisor's and runner's view of one small shared memory, ready for five calls."""
    fd = shared_memory.create(16 * 1024)
    ours, theirs = SharedProgress(fd), SharedProgress(fd)
    ours.reset(5, 1.0)
    yield ours, theirs
    ours.close()
    theirs.close()
    os.close(fd)


def test_what_one_side_writes_the_other_reads(sides: tuple[SharedProgress, SharedProgress]) -> None:
    ours, theirs = sides
    assert theirs.start(0, 10.0, 0.5)
    assert (ours.started, ours.finished, ours.began, ours.cpu) == (1, 0, 10.0, 0.5)
    assert theirs.write(0, SUCCEEDED, 1e9, 0.25, b"", b"result")
    theirs.finish(0)
    assert theirs.start(1, 11.0, 0.5)
    assert theirs.write(1, FAILED, 1e9, 0.5, b"{}", b"trace")
    theirs.finish(1)
    (first, one), (second, two) = list(ours.read(0))
    assert one == (0, SUCCEEDED, 1e9, 0.25, b"", b"result")
    assert two == (1, FAILED, 1e9, 0.5, b"{}", b"trace")
    assert list(ours.read(first)) == [(second, two)]
    assert list(ours.read(second)) == []
    assert (ours.started, ours.finished) == (2, 2)


def test_no_call_starts_behind_the_limit(sides: tuple[SharedProgress, SharedProgress]) -> None:
    ours, theirs = sides
    assert theirs.start(0, 1.0, 0.0)
    ours.limit = 1
    assert not theirs.start(1, 1.0, 0.0)
    assert ours.started == 1


def test_a_record_that_does_not_fit_is_refused_and_harms_nothing(
    sides: tuple[SharedProgress, SharedProgress],
) -> None:
    ours, theirs = sides
    assert theirs.write(0, SUCCEEDED, 0.0, 0.0, b"", b"a" * 8000)
    assert not theirs.write(1, SUCCEEDED, 0.0, 0.0, b"", b"b" * 8000)
    assert theirs.write(2, SUCCEEDED, 0.0, 0.0, b"", b"c")
    assert [record.payload[:1] for _, record in ours.read(0)] == [b"a", b"c"]


def test_a_new_bundle_finds_nothing_of_the_last_one(sides: tuple[SharedProgress, SharedProgress]) -> None:
    ours, theirs = sides
    theirs.start(0, 1.0, 0.0)
    theirs.write(0, SUCCEEDED, 0.0, 0.0, b"", b"a")
    theirs.finish(0)
    ours.skip[3] = 1
    ours.limit = 1
    ours.reset(5, 2.0)
    assert (ours.started, ours.finished, ours.limit, ours.began, bytes(ours.skip[:5])) == (
        0,
        0,
        5,
        2.0,
        bytes(5),
    )
    assert list(ours.read(0)) == []


def test_lengths_that_lead_outside_are_not_followed(sides: tuple[SharedProgress, SharedProgress]) -> None:
    ours, theirs = sides
    assert theirs.write(0, SUCCEEDED, 0.0, 0.0, b"", b"abc")
    shared_memory._RECORD.pack_into(theirs._map, shared_memory._DATA, 0, 0, 0.0, 0.0, 2**32 - 1, 2**32 - 1)
    assert list(ours.read(0)) == []
    theirs._words[shared_memory._TAIL] = 2**63
    assert all(record.call >= 0 for _, record in ours.read(0))


def test_descriptors_of_shared_memory_cannot_shrink_it_or_write_it(
    sides: tuple[SharedProgress, SharedProgress],
) -> None:
    fd = shared_memory.create()
    try:
        with pytest.raises(OSError):
            os.ftruncate(fd, 0)
        mine = SharedProgress(fd)
        shared_memory.protect(fd)
        with pytest.raises(OSError):
            os.pwrite(fd, b"x", 0)
        mine.limit = 7
        assert mine.limit == 7
        mine.close()
    finally:
        os.close(fd)


def test_frames_survive_any_cutting() -> None:
    data = frames.pack(frames.DONE, {"ran": 3}) + frames.pack(frames.OUTCOME, {"index": 1}, b"ab", b"cd")
    for size in (1, 2, 7, len(data)):
        reader = frames.Reader()
        seen = [f for i in range(0, len(data), size) for f in reader.feed(data[i : i + size])]
        assert seen == [(frames.DONE, {"ran": 3}, b""), (frames.OUTCOME, {"index": 1}, b"abcd")]


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 9,
        frames._HEAD.pack(frames.DONE, 2**31, 0),
        frames._HEAD.pack(frames.DONE, 0, 2**31),
        frames._HEAD.pack(frames.DONE, 2, 0) + b"[]",
        frames._HEAD.pack(frames.DONE, 2, 0) + b"{x",
        frames._HEAD.pack(frames.DONE, 50_000, 0) + b"[" * 50_000,
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.Reader().feed(data)


def test_a_frame_over_a_socket_and_its_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(frames.pack(frames.RUN, {"calls": 1}, b"body"))
        assert frames.receive(theirs) == (frames.RUN, {"calls": 1}, b"body")
        ours.sendall(b"\x01")
        ours.shutdown(socket.SHUT_WR)
        assert frames.receive(theirs) is None
