"""One method per route of the API that is not about tasks; ``Client`` joins them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from .transport import Request, Transport

Record = dict[str, Any]

#: Records asked for at once when a list is read to its end.
PAGE = 1000


class Routes:
    """What all routes share: a transport."""

    transport: Transport

    def _get(self, path: str, query: Record | None = None) -> Any:
        return self.transport.send(Request("GET", path, query))

    def _pages(self, path: str, query: Record, limit: int | None) -> Iterator[Record]:
        """Yield the records of a list, at most ``limit``, page by page."""
        left, cursor = limit, None
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = self._get(path, {**query, "limit": size, "cursor": cursor})
            yield from page["items"]
            cursor = page.get("next")
            if not cursor:
                return
            if left is not None:
                left -= len(page["items"])


class ServiceRoutes(Routes):
    """The service itself, and who is asking."""

    def whoami(self) -> Record:
        """Return the caller's user: ``id`` and ``name``. Raises Unauthorized."""
        return dict(self._get("/v1/whoami"))

    def health(self) -> Record:
        """Return how the service is: ``status``, ``database``, ``broker``, ``collector_lag`` (seconds)."""
        return dict(self.transport.send(Request("GET", "/health", patience=0.0)))

    def version(self) -> Record:
        """Return the service's version."""
        return dict(self._get("/version"))


class FunctionRoutes(Routes):
    """Registered functions."""

    def functions(self, limit: int | None = None) -> Iterator[Record]:
        """Yield the caller's functions, newest first; all of them unless ``limit`` is given."""
        return self._pages("/v1/functions", {}, limit)

    def get_function(self, function_id: str) -> Record:
        """Return one function. Raises NotFound."""
        return dict(self._get(f"/v1/functions/{quote(function_id, safe='')}"))

    def function_summary(self, function_id: str) -> Record:
        """Return what calls of a function used, for choosing limits. Raises NotFound.

        ``quantities`` has ``p50``, ``p95``, ``max`` and ``calls`` of ``queued``, ``wall``, ``cpu``,
        ``user``, ``system`` (seconds), ``max_rss``, ``read``, ``written`` and ``output`` (bytes), None where
        nothing is known; of at most 1,000 of the newest calls.
        """
        return dict(self._get(f"/v1/functions/{quote(function_id, safe='')}/summary"))

    def delete_function(self, function_id: str) -> None:
        """Delete a function. Raises NotFound, Conflict."""
        self.transport.send(Request("DELETE", f"/v1/functions/{quote(function_id, safe='')}"))

    def register_body(
        self, name: str, body: bytes, source: str | None = None, description: str = ""
    ) -> Record:
        """Register serialized code (see ``umbel.serialize``); equal code of one owner gets one id."""
        record = {"name": name, "body": base64.b64encode(body).decode(), "description": description}
        if source is not None:
            record["source"] = source
        return dict(self.transport.send(Request("POST", "/v1/functions", body=record, repeatable=True)))


class EndpointRoutes(Routes):
    """Endpoints, named by id or by name."""

    def endpoints(self, limit: int | None = None) -> Iterator[Record]:
        """Yield the endpoints that the caller may use."""
        return self._pages("/v1/endpoints", {}, limit)

    def get_endpoint(self, endpoint: str) -> Record:
        """Return one endpoint: its state, slots, queue and nodes. Raises NotFound."""
        return dict(self._get(f"/v1/endpoints/{quote(endpoint, safe='')}"))

    def register_endpoint(
        self, name: str, public_key: bytes, description: str = "", metadata: Record | None = None
    ) -> Record:
        """Register an endpoint by its Ed25519 key (32 raw bytes); the answer alone has its ``credentials``.

        Raises Conflict (``NAME_TAKEN``).
        """
        body = {
            "name": name,
            "public_key": base64.b64encode(public_key).decode(),
            "description": description,
            "metadata": metadata or {},
        }
        return dict(self.transport.send(Request("POST", "/v1/endpoints", body=body)))

    def endpoint_code(self, name: str, lifetime: float = 3600.0) -> Record:
        """Make a one-time ``code``, good for ``lifetime`` seconds, to register endpoint ``name`` with."""
        body = {"name": name, "lifetime": lifetime}
        return dict(self.transport.send(Request("POST", "/v1/codes", body=body)))

    def update_endpoint(
        self, endpoint: str, description: str | None = None, metadata: Record | None = None
    ) -> Record:
        """Change an endpoint's description or metadata; what is None stays. Raises NotFound."""
        body = {"description": description, "metadata": metadata}
        body = {key: value for key, value in body.items() if value is not None}
        return dict(
            self.transport.send(Request("PATCH", f"/v1/endpoints/{quote(endpoint, safe='')}", body=body))
        )

    def delete_endpoint(self, endpoint: str) -> None:
        """Delete an endpoint. Raises NotFound, Conflict (``IN_USE``)."""
        self.transport.send(Request("DELETE", f"/v1/endpoints/{quote(endpoint, safe='')}"))
