"""A scripted HTTP server for the tests of the SDK."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.unit.umbel.http_server import Answer, Asked, ScriptedServer

Serve = Callable[[Callable[[Asked], Answer]], ScriptedServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server: ``serve(script)``."""
    servers: list[ScriptedServer] = []

    def start(script: Callable[[Asked], Answer]) -> ScriptedServer:
        servers.append(ScriptedServer(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
