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
    for read in (parcel.split, parcel.unpack_results):
        try:
            read(data)
        except ProtocolError as error:
            assert error.code == "BAD_REQUEST"


def test_results_keep_their_bytes_and_their_kind():
    rows = [
        {"task_id": "1", "state": "succeeded", "result": b"one", "exception": None},
        {"task_id": "2", "state": "failed", "result": None, "exception": b"{}"},
        {"task_id": "3", "state": "cancelled", "result": None, "exception": None},
    ]
    page = {"results": rows, "cursor": 3, "live": 0}
    data = b"".join(parcel.result_pieces(page))
    assert parcel.unpack_results(data) == page
    assert rows[0]["result"] == b"one"


@pytest.mark.parametrize(
    ("record", "blobs"),
    [
        ({"results": [{"state": "succeeded"}]}, []),
        ({"results": []}, [b"left over"]),
        ({"results": [{}]}, [b""]),
        ({"results": [3]}, [b""]),
        ({"cursor": 1}, []),
    ],
)
def test_pages_that_are_none_are_refused(record, blobs):
    with pytest.raises(ProtocolError, match="page of results"):
        parcel.unpack_results(parcel.pack(record, blobs))


@pytest.mark.parametrize("sizes", [[3], [1, -1, 2], [True, 1], "2", [2.0], None, [10**30]])
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ProtocolError):
        parcel.cut(sizes, b"ab")
