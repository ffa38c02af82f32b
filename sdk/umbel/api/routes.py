"""One method per route of the API: the service itself, functions and endpoints.

``task_routes`` and ``elastic_routes`` have the other routes; ``Client`` joins them all.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from .transport import Request, Transport

#: A JSON object of the API.
Record = dict[str, Any]

#: Records per request when a list is read to its end.
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
    """The service itself, and the user of the token."""

    def whoami(self) -> Record:
        """Return the user that the token belongs to.

        Returns:
            A record with ``id`` and ``name``.

        Raises:
            Unauthorized: The token is missing or not valid.
        """
        return dict(self._get("/v1/whoami"))

    def health(self) -> Record:
        """Return the health of the service. Needs no token and is tried once only.

        Returns:
            A record with ``status`` (``"ok"`` or ``"degraded"``), ``database`` and ``broker`` (``"ok"`` or
            ``"unreachable"``), ``collector_lag`` (seconds since a collector was last active, or None),
            ``reports_waiting`` (number of unread reports, or None), ``reports_rejected`` (number of invalid
            reports, or None), ``version`` and ``protocol``.

        Raises:
            ServiceUnavailable: The service cannot be reached, is starting, or its database does not answer.
        """
        return dict(self.transport.send(Request("GET", "/health", patience=0.0)))

    def version(self) -> Record:
        """Return the service's ``version`` (a string) and ``protocol`` (an integer). Needs no token."""
        return dict(self._get("/version"))


class FunctionRoutes(Routes):
    """Registered functions."""

    def functions(self, limit: int | None = None) -> Iterator[Record]:
        """Yield the user's functions, newest first.

        Args:
            limit: Maximum number of records. Default: all.

        Yields:
            Records as ``get_function`` returns them, without ``source`` and ``local``.
        """
        return self._pages("/v1/functions", {}, limit)

    def get_function(self, function_id: str) -> Record:
        """Return one function.

        Args:
            function_id: Id of the function, as ``register_function`` returns it.

        Returns:
            A record with ``id``, ``name``, ``description``, ``sha256`` (hexadecimal), ``size`` (bytes),
            ``created`` (seconds since 1970), ``source`` (a string or None), ``environment`` (``digest``
            with ``requirements`` and ``python``, or with ``name``; or None), ``limits`` (``timeout``,
            ``memory``, ``cpu``, ``output``, ``open_files``, ``isolation``, as far as they are set; or None)
            and ``local`` (names of the packages and modules whose code travels with it).

        Raises:
            NotFound: The user has no function with this id (``FUNCTION_NOT_FOUND``).
        """
        return dict(self._get(f"/v1/functions/{quote(function_id, safe='')}"))

    def function_summary(self, function_id: str) -> Record:
        """Return what calls of a function used, for choosing limits.

        Args:
            function_id: Id of the function.

        Returns:
            A record with ``function_id``, ``calls`` (size of the sample, at most 1,000 of the newest calls),
            ``since`` (when the oldest of them ended, seconds since 1970, or None) and ``quantities``: for
            ``queued``, ``wall``, ``cpu``, ``user``, ``system`` (seconds), ``max_rss``, ``read``, ``written``
            and ``output`` (bytes) a record with ``p50``, ``p95``, ``max`` and ``calls``, or None where no
            call of the sample has the quantity.

        Raises:
            NotFound: The user has no function with this id (``FUNCTION_NOT_FOUND``).
        """
        return dict(self._get(f"/v1/functions/{quote(function_id, safe='')}/summary"))

    def delete_function(self, function_id: str) -> None:
        """Delete a function. Tasks that were submitted before still run.

        Args:
            function_id: Id of the function.

        Raises:
            NotFound: The user has no function with this id (``FUNCTION_NOT_FOUND``).
        """
        self.transport.send(Request("DELETE", f"/v1/functions/{quote(function_id, safe='')}"))

    def register_body(
        self,
        name: str,
        body: bytes,
        source: str | None = None,
        description: str = "",
        *,
        patience: float | None = None,
    ) -> Record:
        """Register a serialized function. ``register_function`` does this for a Python function.

        Args:
            name: Name to show, 1 to 256 characters.
            body: ``data`` of what ``umbel.serialize.dump_function`` returns, at most about 9 MiB.
            source: Source text to show, at most 256 Ki characters.
            description: Description to show, at most 4,096 characters.
            patience: Seconds after which the request fails. Default: the client's patience.

        Returns:
            The function, as ``get_function`` returns it. A function that the same user has registered
            before, with the same bytes, keeps its id.

        Raises:
            BadRequest: The body's environment or limits are not valid.
            TooLarge: The body is too large.
        """
        record = {"name": name, "body": base64.b64encode(body).decode(), "description": description}
        if source is not None:
            record["source"] = source
        request = Request("POST", "/v1/functions", body=record, repeatable=True, patience=patience)
        return dict(self.transport.send(request))


class EndpointRoutes(Routes):
    """Endpoints, addressed by id or by name."""

    def endpoints(self, limit: int | None = None) -> Iterator[Record]:
        """Yield the endpoints that the user may use, newest first.

        Args:
            limit: Maximum number of records. Default: all.

        Yields:
            Records as ``get_endpoint`` returns them, with at most 20 nodes each.
        """
        return self._pages("/v1/endpoints", {}, limit)

    def get_endpoint(self, endpoint: str, patience: float | None = None) -> Record:
        """Return one endpoint with the present state of its nodes and its queue.

        Args:
            endpoint: Id or name of the endpoint.
            patience: Seconds for which the service may be unreachable. Default: the client's.

        Returns:
            A record with ``id``, ``name``, ``description``, ``metadata``, ``created`` (seconds since 1970),
            ``state`` (``"online"`` or ``"offline"``), ``last_heartbeat`` (seconds since 1970, or None),
            ``slots_total``, ``slots_free``, ``queue`` (unfinished tasks by state), ``python``, ``platform``,
            ``packages`` (versions by name) and ``nodes``: records with ``name``, ``slots``, ``busy``,
            ``since``, ``seen``, ``live`` and what the node reports about its machine, such as ``hostname``,
            ``cpu`` (model), ``cpus``, ``memory`` (bytes) and ``gpus``.

        Raises:
            NotFound: The user has no such endpoint (``ENDPOINT_NOT_FOUND``).
        """
        path = f"/v1/endpoints/{quote(endpoint, safe='')}"
        return dict(self.transport.send(Request("GET", path, patience=patience)))

    def register_endpoint(
        self, name: str, public_key: bytes, description: str = "", metadata: Record | None = None
    ) -> Record:
        """Register an endpoint. ``umbel-endpoint configure`` does this for the machine that it runs on.

        Args:
            name: 1 to 63 letters, digits and ``_ . -``, starting with a letter or a digit.
            public_key: Ed25519 key (32 raw bytes) that the endpoint signs its reports with.
            description: Description to show, at most 4,096 characters.
            metadata: A JSON object of at most 16 KiB.

        Returns:
            The endpoint, as ``get_endpoint`` returns it, and ``credentials``: ``endpoint_id``,
            ``broker_url`` and ``service_key`` (base64). The service returns the credentials only once.

        Raises:
            BadRequest: The name or the key is not valid.
            Conflict: The user already has an endpoint with this name (``NAME_TAKEN``).
            ServiceUnavailable: The broker cannot be reached, and nothing was registered; or it is unknown
                whether the endpoint was registered.
        """
        body = {
            "name": name,
            "public_key": base64.b64encode(public_key).decode(),
            "description": description,
            "metadata": metadata or {},
        }
        return dict(self.transport.send(Request("POST", "/v1/endpoints", body=body)))

    def endpoint_code(self, name: str, lifetime: float = 3600.0) -> Record:
        """Create a one-time code with which another machine can register an endpoint.

        Args:
            name: Name of the endpoint that the code is for.
            lifetime: How long the code is valid, seconds, from 1 to 2,592,000 (30 days).

        Returns:
            A record with ``code``, ``name`` and ``expires`` (seconds since 1970). The service returns the
            code only once.
        """
        body = {"name": name, "lifetime": lifetime}
        return dict(self.transport.send(Request("POST", "/v1/codes", body=body)))

    def update_endpoint(
        self, endpoint: str, description: str | None = None, metadata: Record | None = None
    ) -> Record:
        """Change an endpoint's description or metadata.

        Args:
            endpoint: Id or name of the endpoint.
            description: The new description. Default: unchanged.
            metadata: Replaces the present metadata. Default: unchanged.

        Returns:
            The endpoint, as ``get_endpoint`` returns it.

        Raises:
            NotFound: The user has no such endpoint (``ENDPOINT_NOT_FOUND``).
        """
        body = {"description": description, "metadata": metadata}
        body = {key: value for key, value in body.items() if value is not None}
        return dict(
            self.transport.send(Request("PATCH", f"/v1/endpoints/{quote(endpoint, safe='')}", body=body))
        )

    def delete_endpoint(self, endpoint: str) -> None:
        """Delete an endpoint. The blocks of an elastic endpoint are cancelled and its site is cleaned.

        Args:
            endpoint: Id or name of the endpoint.

        Raises:
            NotFound: The user has no such endpoint (``ENDPOINT_NOT_FOUND``).
            Conflict: The endpoint still has unfinished tasks (``IN_USE``).
        """
        self.transport.send(Request("DELETE", f"/v1/endpoints/{quote(endpoint, safe='')}"))
