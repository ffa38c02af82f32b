"""Limits set by endpoint, function and submission: at a real endpoint the smallest of each counts."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import umbel as sdk
from tests.support.embedded import Embedded, HandEndpoint
from umbel import TaskError
from umbel.api.options import Options
from umbel.protocol.errors import ServiceError

DEADLINE = 60.0
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("limits"), workers=0) as embedded:
        yield embedded


@pytest.fixture(scope="module")
def lab(umbel: Embedded) -> HandEndpoint:
    """An endpoint whose calls may run for 2 seconds, and have 128 files open."""
    return umbel.endpoint("lab", 2, "timeout = 2.0\nopen_files = 128\noutput = 1000\n")


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def fill(size: int) -> int:
    return len(bytearray(size))


def open_many(count: int) -> int:
    return len([os.open(os.devnull, os.O_RDONLY) for _ in range(count)])


def speak(count: int) -> None:
    print("x" * count, end="")


def _fails(umbel: Embedded, function: Callable[..., Any], *args: Any, **options: Any) -> str:
    """The code of a call that must fail, and its message."""
    with umbel.executor("lab", **options) as executor:
        error = executor.submit(function, *args).exception(DEADLINE)
    assert error is not None
    return f"{getattr(error, 'code', type(error).__name__)} {error}"


def test_of_the_three_the_smallest_time_counts(umbel: Embedded, lab: HandEndpoint) -> None:
    quick = sdk.function(timeout=0.5)(lambda: nap(60))
    patient = sdk.function(timeout=30)(lambda: nap(60))
    for function, options, limit in (
        (quick, {}, "0.5 s"),
        (quick, {"timeout": 20.0}, "0.5 s"),
        (quick, {"timeout": 0.25}, "0.25 s"),
        (patient, {}, "2 s"),
        (patient, {"timeout": 20.0}, "2 s"),
    ):
        said = _fails(umbel, function, **options)
        assert said.startswith("TIMEOUT") and f"limit of {limit}" in said


def test_memory_files_and_output(umbel: Embedded, lab: HandEndpoint) -> None:
    assert _fails(umbel, sdk.function(memory=100 * MIB)(lambda: fill(400 * MIB))).startswith("MEMORY_LIMIT")
    assert "Too many open files" in _fails(umbel, sdk.function(open_files=40)(lambda: open_many(60)))
    assert "Too many open files" in _fails(umbel, open_many, 60, open_files=40)
    assert "Too many open files" in _fails(umbel, open_many, 200, open_files=500)
    with umbel.executor("lab", output=600) as executor:
        quiet = executor.submit(sdk.function(output=10)(lambda: speak(5000)))
        loud = executor.submit(speak, 5000)
        assert quiet.result(DEADLINE) is loud.result(DEADLINE) is None
        assert quiet.log().count("x") == 10 and loud.log().count("x") == 600
        assert executor.submit(open_many, 60).result(DEADLINE) == 60


def test_a_chunk_has_the_limits_of_its_calls(umbel: Embedded, lab: HandEndpoint) -> None:
    # each takes less than a call may, together they take more
    limited = sdk.function(timeout=0.6)(nap)
    try:
        with umbel.executor("lab") as executor:
            assert list(executor.map(limited, [0.3] * 4, chunksize=4, timeout=DEADLINE)) == [0.3] * 4
            with pytest.raises(TaskError) as caught:
                list(executor.map(sdk.function(timeout=0.2)(nap), [60.0] * 4, chunksize=4, timeout=DEADLINE))
            assert caught.value.code == "TIMEOUT" and "0.8 s" in str(caught.value)
    finally:
        del nap.__umbel_limits__  # type: ignore[attr-defined]


def test_a_function_shows_its_limits_and_bad_ones_are_refused(umbel: Embedded, lab: HandEndpoint) -> None:
    with umbel.client() as client:
        function_id = client.register_function(sdk.function(timeout=0.5, memory=100 * MIB)(lambda: None))
        assert client.get_function(function_id)["limits"] == {"timeout": 0.5, "memory": 100 * MIB}
        plain = client.register_function(lambda: None)
        assert client.get_function(plain)["limits"] is None
        head = b'{"limits": {"timeout": 0}}'
        with pytest.raises(ServiceError) as caught:
            client.register_body("bad", b"UMBF" + len(head).to_bytes(4, "big") + head)
        assert caught.value.code == "VALIDATION_ERROR" and re.search(
            r"\btimeout .*\b0$", caught.value.message
        )
        with pytest.raises(ValueError, match="open_files"):
            client.submit(plain, "lab", [b"x"], options=Options(open_files=3))
