"""What is written can be read; what cannot be read is rejected where it is written, with its size."""

from __future__ import annotations

import operator
import zlib
from array import array
from typing import Any

import pytest

from tests.unit.umbel.scripted import ScriptedService, ScriptedTransport
from umbel import Client, TaskError
from umbel.protocol.errors import TooLarge
from umbel.serialization import compression
from umbel.serialize import dump_call, dump_result, load_result
from umbel.testing import LocalService

LIMIT = 11 * 1024 * 1024
PIECE, COUNT = b"0123456789abcdef", LIMIT // 16 + 1


@pytest.mark.parametrize(
    "value", [bytes(200_000_000), array("d", bytes(100_000_000))], ids=["bytes", "array"]
)
def test_very_compressible_values_travel_both_ways(value: Any) -> None:
    with LocalService() as service, service.executor() as executor:
        assert executor.submit(lambda value: value, value).result(60) == value


def test_output_of_another_zlib_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other implementations compress more at the same level."""
    monkeypatch.setattr(compression, "LEVEL", 9)
    data = dump_result(bytes(50_000_000))
    assert data[:1] == compression.COMPRESSED and len(zlib.compress(bytes(50_000_000), 9)) < len(data)
    assert load_result(data) == bytes(50_000_000)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compression.LIMIT_VARIABLE, str(LIMIT))


@pytest.mark.usefixtures("_small")
def test_a_larger_result_is_rejected_with_its_size() -> None:
    with LocalService() as service, service.executor() as executor:
        with pytest.raises(TaskError, match=f"11,534,.*{LIMIT:,}") as caught:
            executor.submit(operator.mul, PIECE, COUNT).result(60)
    assert caught.value.code == "RESULT_TOO_LARGE"


@pytest.mark.usefixtures("_small")
def test_larger_arguments_are_rejected_before_they_are_sent() -> None:
    payload = dump_call((PIECE * COUNT,), {})
    service = ScriptedService()
    with service.executor() as executor:
        error = executor.submit(len, PIECE * COUNT).exception(10)
    client = Client(transport=ScriptedTransport(service))
    with pytest.raises(TooLarge) as caught:
        client.submit("f", "lab", [payload])
    for each in (error, caught.value):
        assert isinstance(each, TooLarge) and each.details["size"] == len(payload)
        assert f"{len(payload):,}" in str(each) and f"{LIMIT:,}" in str(each)
    assert not service.submissions
