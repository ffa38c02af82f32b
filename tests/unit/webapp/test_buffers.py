"""Large bodies in memory: received as they arrive, sent from where they lie."""

from __future__ import annotations

import pytest
from waitress.buffers import ReadOnlyFileBasedBuffer

from webapp import buffers
from webapp.buffers import Pieces, Received, merged


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "SMALL_PIECE", 1)


def test_a_body_is_received_as_it_arrives() -> None:
    body = Received(10)
    assert len(body) == 0 and bytes(body.view) == b""
    body.append(b"abc")
    body.append(b"defghij")
    assert len(body) == 10 and bytes(body.view) == b"abcdefghij"
    assert body.getfile().read() == b"abcdefghij"
    with pytest.raises(TypeError):
        body.view[0] = 1
    view = body.view
    body.close()
    assert len(body) == 0 and bytes(view) == b"abcdefghij"


def test_pieces_are_sent_in_order_whatever_the_socket_takes() -> None:
    pieces = Pieces([b"head", b"", b"first", b"second"])
    # as waitress takes it: without a copy, unlike a list of bytes
    assert isinstance(pieces, ReadOnlyFileBasedBuffer)
    assert pieces.prepare(15) == len(pieces) == 15
    sent = b""
    for accepted in (3, 1, 4, 4, 3):
        chunk = pieces.get(accepted)
        sent += bytes(chunk)
        pieces.skip(len(chunk), True)
    # the third read ended with its piece
    assert sent == b"headfirstsec" and len(pieces) == 3
    assert bytes(pieces.get(-1, skip=True)) == b"ond" and len(pieces) == 0
    assert pieces.get(10) == b""


def test_a_skip_may_cover_several_pieces() -> None:
    pieces = Pieces([b"ab", b"cd", b"ef"])
    pieces.skip(3)
    assert [bytes(piece) for piece in pieces] == [b"d", b"ef"] and len(pieces) == 3
    pieces.close()
    assert len(pieces) == 0 and list(pieces) == []


def test_small_pieces_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "SMALL_PIECE", 4)
    assert merged([b"a", b"", b"bcd", b"four", b"longer", b"", b"e"]) == [b"abcd", b"four", b"longer", b"e"]
    assert merged([b"", b""]) == [] == merged([])
