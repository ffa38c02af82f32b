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


class ElasticRoutes(Routes):
    """Elastic endpoints, named by id or by name. What the words mean is told in ``docs/provisioning.rst``."""

    def sites(self) -> list[Record]:
        """Return the caller's elastic endpoints: ``name address scheduler status message decision looked``.

        Deleted ones are among them, as ``removing``, until their sites are clean.
        """
        return list(self._get("/v1/sites")["items"])

    def show_host_keys(self, name: str, site: Record, policy: Record | None = None) -> list[Record]:
        """Return the host keys that a site shows now: ``key`` and ``fingerprint``. Nothing is made.

        Compare them with what the site publishes, and give the keys to ``add_elastic_endpoint``.
        """
        return list(self._site({"name": name, "site": site, "policy": policy or {}}).get("host_keys", []))

    def preview_elastic_endpoint(self, name: str, site: Record, policy: Record | None = None) -> str:
        """Return the job script that a site would get. Nothing is made. Raises BadRequest."""
        body = {"name": name, "site": site, "policy": policy or {}, "dry_run": True}
        return str(self._site(body)["script"])

    def add_elastic_endpoint(
        self, name: str, site: Record, policy: Record | None = None, *, host_keys: list[str] | None = None
    ) -> Record:
        """Make an elastic endpoint; return ``id``, ``name``, ``host_keys`` and ``authorized_keys``.

        ``site``: ``address`` (``ssh://user@host:port``), ``scheduler`` and other settings; ``policy``: rules,
        what is not given has its default. ``host_keys``: the confirmed ones; None: those that the site shows
        now are believed. ``authorized_keys`` is the line that the account on the site has to allow. Raises
        BadRequest, Conflict (``NAME_TAKEN``), ServiceUnavailable while the site cannot be reached.
        """
        chosen = site if host_keys is None else {**site, "host_keys": list(host_keys)}
        return self._site({"name": name, "site": chosen, "policy": policy or {}, "confirm": True})

    def get_blocks(self, endpoint: str) -> Record:
        """Return how an elastic endpoint is.

        ``status`` (new, ok, unreachable, paused, removing) and ``message``; ``decision``, the last one in a
        sentence, and ``history``, those before; ``network``; ``policy``; ``node_hours`` used and reserved;
        ``bad_nodes``; ``blocks``, the active ones and the newest of those that have ended. Raises NotFound.
        """
        return dict(self._get(self._path(endpoint, "blocks")))

    def pause_endpoint(self, endpoint: str, reason: str = "") -> None:
        """Have no more blocks submitted; those that are there go on. Raises NotFound."""
        self._post(self._path(endpoint, "pause"), {"reason": reason} if reason else {})

    def resume_endpoint(self, endpoint: str) -> None:
        """Have blocks submitted again, whatever has failed before. Raises NotFound."""
        self._post(self._path(endpoint, "resume"), None)

    def change_policy(self, endpoint: str, **rules: float) -> Record:
        """Change some rules, such as ``max_blocks=5``; return all of them. Raises NotFound, BadRequest."""
        return dict(self.transport.send(Request("PATCH", self._path(endpoint, "policy"), body=rules)))

    @staticmethod
    def _path(endpoint: str, what: str) -> str:
        return f"/v1/endpoints/{quote(endpoint, safe='')}/{what}"

    def _site(self, body: Record) -> Record:
        return dict(self._post("/v1/sites", body))

    def _post(self, path: str, body: Any) -> Any:
        return self.transport.send(Request("POST", path, body=body))
