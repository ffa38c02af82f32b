"""Parcels: a record and its bytes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.protocol import parcel
from umbel.protocol.errors import ProtocolError


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_what_is_packed_comes_out(blobs):
    head, joined = parcel.split(parcel.pack({"function_id": "é"}, blobs))
    record = json.loads(head)
    assert parcel.cut(record.pop("sizes"), joined) == blobs
    assert record == {"function_id": "é"}


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_read(data):
    try:
        parcel.split(data)
    except ProtocolError as error:
        assert error.code == "BAD_REQUEST"


@pytest.mark.parametrize("sizes", [[3], [1, -1, 2], [True, 1], "2", [2.0], None, [10**30]])
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ProtocolError):
        parcel.cut(sizes, b"ab")
