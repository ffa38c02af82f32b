"""Frames between the supervisor and a runner: large bodies arrive as they were sent."""

from __future__ import annotations

import socket
import threading

import pytest

from endpoint_worker.ipc import frames

SMALL, LARGE = b"x" * 100, bytes(range(256)) * 4096


@pytest.mark.parametrize("body", [b"", SMALL, LARGE])
def test_what_is_sent_in_views_is_received_as_one_frame(body: bytes) -> None:
    ours, theirs = socket.socketpair()
    views = frames.views(frames.RUN, {"calls": 1}, b"table", body)
    assert b"".join(views) == frames.pack(frames.RUN, {"calls": 1}, b"table", body)

    def send() -> None:
        for view in views:
            # in odd pieces: one receive gets a part only
            for start in range(0, len(view), 50_021):
                ours.sendall(view[start : start + 50_021])
        ours.close()

    with ours, theirs:
        sender = threading.Thread(target=send)
        sender.start()
        assert frames.receive(theirs) == (frames.RUN, {"calls": 1}, b"table" + body)
        assert frames.receive(theirs) is None
        sender.join()


def test_a_large_body_is_not_copied_to_be_sent() -> None:
    *_, last = frames.views(frames.RUN, {}, b"table", LARGE)
    assert last.obj is LARGE


@pytest.mark.parametrize("missing", [1, len(LARGE), len(LARGE) + 1])
def test_a_frame_that_is_cut_is_the_end_of_the_stream(missing: int) -> None:
    ours, theirs = socket.socketpair()
    data = frames.pack(frames.RUN, {"calls": 1}, LARGE)
    sender = threading.Thread(target=lambda: (ours.sendall(data[:-missing]), ours.close()))
    with ours, theirs:
        sender.start()
        assert frames.receive(theirs) is None
        sender.join()


def test_a_reader_finds_frames_however_they_are_cut() -> None:
    stream = frames.pack(frames.OUTCOME, {"index": 0}, LARGE) + frames.pack(frames.DONE, {"ran": 1})
    for size in (1 << 18, 7_919):
        reader = frames.Reader()
        found = [frame for at in range(0, len(stream), size) for frame in reader.feed(stream[at : at + size])]
        assert found == [(frames.OUTCOME, {"index": 0}, LARGE), (frames.DONE, {"ran": 1}, b"")]
