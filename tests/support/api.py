"""The whole API in one process: real database, real broker, no web server."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from federation.broker.notifications import Notifier
from federation.config.settings import Settings
from federation.context import open_federation
from federation.registry import users
from tests.support.played import PlayedEndpoint
from webapp.app import create_app


class Caller:
    """Somebody with a token."""

    def __init__(self, client: FlaskClient, token: str | None):
        self._client = client
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> TestResponse:
        """Send a request to ``path``; ``body``: what becomes JSON, or bytes."""
        headers = {**self.headers, **more.pop("headers", {})}
        if isinstance(body, bytes):
            more = {"data": body, "content_type": "application/json", **more}
        elif body is not None:
            more = {"json": body, **more}
        return self._client.open(path, method=method, headers=headers, **more)

    def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The JSON of a request that must succeed."""
        answer = self(method, path, body, **more)
        assert answer.status_code < 300, answer.text
        return answer.json


class Api:
    """The API over ``home`` with two users: ``ada`` and ``bob``, and ``anybody`` without a token."""

    def __init__(self, home: Path, broker_url: str, **settings: Any):
        self.fed = open_federation(Settings(home=home, broker_url=broker_url, **settings))
        self.notifier = Notifier(self.fed.broker)
        self.app = create_app(self.fed, self.notifier)
        self.app.testing = False
        self.user = users.ensure_user(self.fed, "ada")
        self.token = users.create_token(self.fed, self.user, "test")
        other = users.create_token(self.fed, users.ensure_user(self.fed, "bob"), "test")
        self.ada = self.caller(self.token)
        self.bob = self.caller(other)
        self.anybody = self.caller(None)
        self._played: list[PlayedEndpoint] = []

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        for endpoint in self._played:
            endpoint.close()
        self.notifier.stop()
        self.fed.close()

    def caller(self, token: str | None) -> Caller:
        """Requests with this token."""
        return Caller(self.app.test_client(), token)

    def endpoint(self, name: str = "lab") -> PlayedEndpoint:
        """A played endpoint of ada."""
        played = PlayedEndpoint(self.fed, self.user, name)
        self._played.append(played)
        return played

    def function(self, body: bytes = b"function") -> str:
        """Id of a function of ada."""
        made = self.ada.ok("POST", "/v1/functions", {"name": "dock", "body": b64(body)})
        return str(made["id"])

    def submit(self, endpoint: str, *payloads: bytes, **more: Any) -> Any:
        """Submit calls of a function of ada; returns ``{"group_id", "task_ids"}``."""
        body = {
            "function_id": self.function(),
            "endpoint_id": endpoint,
            "payloads": list(map(b64, payloads)),
            **more,
        }
        return self.ada.ok("POST", "/v1/tasks", body)


def b64(data: bytes) -> str:
    """Bytes as base64 text."""
    return base64.b64encode(data).decode()
