"""A real redis-server for the tests of each module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.broker import running_broker


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of the server."""
    with running_broker(tmp_path_factory.mktemp("broker")) as found:
        yield found
