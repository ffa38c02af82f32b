"""Signed bytes: what was signed opens, everything else does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from umbel.protocol import envelope
from umbel.protocol.envelope import LEEWAY, Signer, Verifier
from umbel.protocol.errors import ProtocolError

KEY = bytes(range(32))
SIGNER = Signer(KEY)
VERIFIER = Verifier(SIGNER.public_key)
NOW = 1_800_000_000.0

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OWN = ("v", "typ", "aud", "iat", "exp", "size", "sha256")


def sealed(body: bytes = b"body", **more: Any) -> bytes:
    header = {"typ": "t", "aud": "a", "iat": NOW, **more}
    return b"".join(SIGNER.seal(header, body))


def opened(data: bytes, **more: Any) -> tuple[dict[str, Any], bytes]:
    return VERIFIER.open(data, **{"typ": "t", "aud": "a", "now": NOW, **more})


def test_the_header_of_a_large_envelope_is_read_without_its_body() -> None:
    class Sliced(bytes):
        largest = 0

        def __getitem__(self, key: Any) -> Any:
            found = super().__getitem__(key)
            Sliced.largest = max(Sliced.largest, len(found))
            return found

    data = Sliced(sealed(bytes(1_000_000), id="r1"))
    assert envelope.unverified_header(data)["id"] == "r1"
    assert 0 < Sliced.largest < 1000


@given(st.binary(), st.dictionaries(st.text().filter(lambda key: key not in OWN), json_values, max_size=4))
def test_what_was_sealed_opens_to_the_same(body: bytes, extra: dict[str, Any]) -> None:
    header, found = opened(b"".join(SIGNER.seal({**extra, "typ": "t", "aud": "a", "iat": NOW}, body)))
    assert found == body
    assert {key: header[key] for key in extra} == extra


@given(st.data())
def test_no_byte_can_be_changed(data: st.DataObject) -> None:
    whole = sealed(b"some body")
    place = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(1, 255))
    changed = whole[:place] + bytes([whole[place] ^ other]) + whole[place + 1 :]
    with pytest.raises(ProtocolError):
        opened(changed)


@given(st.integers(0, 200))
def test_nothing_can_be_cut_off_or_added(count: int) -> None:
    whole = sealed(b"some body")
    assume(0 < count < len(whole))
    with pytest.raises(ProtocolError):
        opened(whole[:-count])
    with pytest.raises(ProtocolError):
        opened(whole + bytes(count))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_protocol_error(data: bytes) -> None:
    for prefix in (b"", b"UMB1", b"UMB1\0\0\0\x02{}", b"UMB1\0\0\0\x02[]"):
        with pytest.raises(ProtocolError):
            opened(prefix + data)
        with pytest.raises(ProtocolError):
            VERIFIER.open_head(prefix + data, typ="t", aud="a", now=NOW)


def test_head_and_body_may_travel_apart() -> None:
    head, body = SIGNER.seal({"typ": "t", "aud": "a", "iat": NOW}, b"body")
    header = VERIFIER.open_head(head, typ="t", aud="a", now=NOW)
    envelope.check_body(header, body)
    with pytest.raises(ProtocolError):
        envelope.check_body(header, b"another")


def test_another_key() -> None:
    other = Verifier(Signer(bytes(32)).public_key)
    with pytest.raises(ProtocolError, match="expected key"):
        other.open(sealed(), typ="t", aud="a", now=NOW)


@pytest.mark.parametrize("more", [{"typ": "other"}, {"aud": "somebody else"}])
def test_another_type_or_address(more: dict[str, str]) -> None:
    with pytest.raises(ProtocolError):
        opened(sealed(), **more)


def test_dates() -> None:
    assert opened(sealed(iat=NOW + LEEWAY - 1))
    with pytest.raises(ProtocolError, match="future"):
        opened(sealed(iat=NOW + LEEWAY + 1))
    assert opened(sealed(exp=NOW - LEEWAY + 1))
    with pytest.raises(ProtocolError, match="expired"):
        opened(sealed(exp=NOW - LEEWAY - 1))


@pytest.mark.parametrize("more", [{"iat": None}, {"iat": "now"}, {"exp": "later"}])
def test_dates_that_are_none(more: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        opened(sealed(**more))


def test_another_version_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "PROTOCOL_VERSION", 4)
    newer = sealed()
    monkeypatch.undo()
    with pytest.raises(ProtocolError, match="protocol 4") as caught:
        opened(newer)
    assert caught.value.code == "VERSION_MISMATCH"


def test_the_signature_is_bound_to_its_purpose() -> None:
    head, _ = SIGNER.seal({"typ": "t", "aud": "a", "iat": NOW})
    raw = head[8 : 8 + int.from_bytes(head[4:8], "big")]
    # the same key signing the same bytes for another purpose makes no envelope
    elsewhere = SIGNER._key.sign(raw)
    with pytest.raises(ProtocolError):
        opened(head[: 8 + len(raw)] + elsewhere)


def test_new_keys_differ() -> None:
    keys = {envelope.new_private_key() for _ in range(20)}
    assert len(keys) == 20 and {len(key) for key in keys} == {32}
