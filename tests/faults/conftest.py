"""What the tests of faults share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.embedded import Embedded


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A whole federation with two workers, shared by the tests of one module."""
    with Embedded(tmp_path_factory.mktemp("faults"), workers=2) as embedded:
        yield embedded
