"""What a node writes about itself: a signed description, and a beat."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.protocol import names
from umbel.protocol.envelope import Signer, Verifier
from umbel.protocol.errors import ProtocolError
from umbel.protocol.limits import MAX_SLOTS
from umbel.protocol.node_state import MAX_BEAT_BYTES, Beat, NodeState

SIGNER = Signer(bytes(range(32)))
VERIFIER = Verifier(SIGNER.public_key)
NOW = 1_800_000_000.0
ENDPOINT, INSTANCE = names.new_id(), names.new_id()
STATE = NodeState(ENDPOINT, "n1", INSTANCE, 7, 3, 4, {"python": "3.12", "packages": {"numpy": "2.0"}})


def opened(data: bytes, verifier: Verifier = VERIFIER, **changes: str) -> NodeState:
    return NodeState.open(verifier, data, **{"endpoint": ENDPOINT, "instance": INSTANCE, **changes})


def test_a_description_there_and_back() -> None:
    assert opened(STATE.seal(SIGNER, NOW)) == STATE


def test_facts_can_be_stored_in_any_database() -> None:
    odd = NodeState(ENDPOINT, "n1", INSTANCE, 7, 3, 4, {"problem": "a\0b\ud800"})
    assert opened(odd.seal(SIGNER, NOW)).facts == {"problem": "a\ufffdb\ufffd"}


def test_a_description_of_another_node_is_rejected() -> None:
    """One endpoint cannot copy a description of another, nor of another instance, under its own key."""
    data = STATE.seal(SIGNER, NOW)
    for changes in ({"endpoint": names.new_id()}, {"instance": names.new_id()}):
        with pytest.raises(ProtocolError):
            opened(data, **changes)
    with pytest.raises(ProtocolError):
        opened(data, Verifier(Signer(bytes(32)).public_key))


@pytest.mark.parametrize(
    "change",
    [
        {"typ": "report"},
        {"aud": ENDPOINT},
        {"node": ""},
        {"node": "x" * 129},
        {"incarnation": -1},
        {"incarnation": True},
        {"incarnation": 2**70},
        {"version": 1.5},
        {"version": None},
        {"slots": MAX_SLOTS + 1},
        {"slots": "4"},
        {"facts": {"deep": [[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]}},
        {"facts": {"large": 2**63}},
    ],
    ids=str,
)
def test_a_signed_description_that_is_not_one(change: dict[str, Any]) -> None:
    header = {"typ": "node", "aud": "service", "iat": NOW, **vars(STATE)}
    assert opened(b"".join(SIGNER.seal(header))) == STATE
    broken = {key: value for key, value in {**header, **change}.items() if value is not None}
    with pytest.raises(ProtocolError):
        opened(b"".join(SIGNER.seal(broken)))


@given(
    st.builds(
        Beat,
        st.integers(0, 10**15 - 1),
        st.integers(0, 10**15 - 1),
        st.integers(0, 10**9 - 1),
        st.integers(0, 10**9 - 1),
        st.floats(-1e6, 1e6),
        st.floats(-1e6, 1e6),
    )
)
def test_a_beat_there_and_back(beat: Beat) -> None:
    data = beat.write()
    read = Beat.read(data)
    assert read[:4] == beat[:4] and len(data) <= MAX_BEAT_BYTES
    assert read.load == pytest.approx(beat.load, abs=0.006)
    assert read.clock_ahead == pytest.approx(beat.clock_ahead, abs=0.0006)


def test_extreme_values_of_a_beat_can_be_read() -> None:
    for value in (1e300, -1e300, float("inf"), float("-inf"), float("nan")):
        assert Beat.read(Beat(1, 2, 3, 4, value, value).write())[:4] == (1, 2, 3, 4)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1:2:3:4:0.0",
        b"1:2:3:4:0.0:0.0:0",
        b"-1:2:3:4:0.0:0.0",
        b"1:2:3:4:nan:0.0",
        b"1:2:3:4:1e9:0.0",
        b"1:2:3:4:0.0:0.0\n",
        b"1:2:3:4:0.0000:0.0",
        b"1" * 16 + b":2:3:4:0.0:0.0",
        b"1:2:3:4:0.0:0.0" + b" " * 200,
        "١:2:3:4:0.0:0.0".encode(),
        b"\xff:2:3:4:0.0:0.0",
    ],
    ids=str,
)
def test_what_is_no_beat(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Beat.read(data)
