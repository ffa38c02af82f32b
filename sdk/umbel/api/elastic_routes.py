"""One method per route of the API for elastic endpoints; ``Client`` joins all routes."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from .routes import Record, Routes
from .transport import Request


class ElasticRoutes(Routes):
    """Elastic endpoints, by id or by name. ``docs/reference/configuration.rst`` lists settings and rules."""

    def sites(self) -> list[Record]:
        """Return the user's elastic endpoints.

        Returns:
            Records with ``id``, ``name``, ``address``, ``scheduler``, ``status`` (``new``, ``ok``,
            ``unreachable``, ``paused`` or ``removing``), ``message``, ``decision`` (the last one, a
            sentence) and ``looked`` (when the site was last looked at, seconds since 1970, or None). A
            deleted endpoint is listed as ``removing`` until its site is clean.
        """
        return list(self._get("/v1/sites")["items"])

    def show_host_keys(self, name: str, site: Record, policy: Record | None = None) -> list[Record]:
        """Return the host keys that a site presents now, without creating anything.

        Compare the fingerprints with those that the site publishes, then pass the keys to
        ``add_elastic_endpoint``.

        Args:
            name: Name of the endpoint to create.
            site: As in ``add_elastic_endpoint``, but without ``host_keys``: a site that has them is
                complete, and the service creates the endpoint.
            policy: As in ``add_elastic_endpoint``.

        Returns:
            Records with ``key`` and ``fingerprint``.

        Raises:
            BadRequest: A setting or a rule is not valid, or the site is behind a jump host, so that its keys
                cannot be read without logging in.
            ServiceUnavailable: The site cannot be reached.
        """
        return list(self._site({"name": name, "site": site, "policy": policy or {}}).get("host_keys", []))

    def preview_elastic_endpoint(self, name: str, site: Record, policy: Record | None = None) -> str:
        """Return the job script that a site would get, without creating anything.

        Args:
            name: Name of the endpoint to create.
            site: As in ``add_elastic_endpoint``.
            policy: As in ``add_elastic_endpoint``.

        Returns:
            The script, a string.

        Raises:
            BadRequest: A setting or a rule is not valid.
        """
        body = {"name": name, "site": site, "policy": policy or {}, "dry_run": True}
        return str(self._site(body)["script"])

    def add_elastic_endpoint(
        self, name: str, site: Record, policy: Record | None = None, *, host_keys: list[str] | None = None
    ) -> Record:
        """Create an elastic endpoint.

        Args:
            name: Name of the endpoint.
            site: Settings of the site: ``address`` (``ssh://user@host:port``), ``scheduler``, and others.
            policy: Rules, such as ``{"max_blocks": 10}``. Rules that are not set have their defaults.
            host_keys: The confirmed host keys. Default: those of ``site``, else those that the site presents
                now are trusted.

        Returns:
            A record with ``id``, ``name``, ``host_keys`` (records with ``key`` and ``fingerprint``) and
            ``authorized_keys``, the line to append to ``~/.ssh/authorized_keys`` of the account on the site.

        Raises:
            BadRequest: A setting or a rule is not valid.
            Conflict: The user already has an endpoint with this name (``NAME_TAKEN``).
            ServiceUnavailable: The site cannot be reached.
        """
        chosen = site if host_keys is None else {**site, "host_keys": list(host_keys)}
        return self._site({"name": name, "site": chosen, "policy": policy or {}, "confirm": True})

    def get_blocks(self, endpoint: str) -> Record:
        """Return the state of an elastic endpoint and its blocks.

        Args:
            endpoint: Id or name of the endpoint.

        Returns:
            A record with ``status``, ``message``, ``decision`` and ``looked`` as in ``sites``; ``history``
            (earlier decisions, newest first: ``time`` and ``decision``); ``network`` (``wanted``, ``way``,
            ``address``, ``since``); ``policy``; ``node_hours`` (``day``, ``total``, ``reserved``);
            ``bad_nodes`` (until when each node is avoided, seconds since 1970) and ``blocks``: the active
            blocks and the newest ended ones, records with ``name``, ``job_id``, ``state``, ``reason``,
            ``hosts``, ``nodes``, ``slots``, ``workers``, ``busy``, ``walltime`` (seconds), ``submitted``,
            ``started``, ``joined``, ``ended`` (seconds since 1970), ``queue_wait``, ``age`` (seconds),
            ``busy_slot_seconds``, ``idle_slot_seconds``, ``node_hours`` and ``tail`` (end of a failed job's
            output).

        Raises:
            NotFound: The user has no such elastic endpoint (``ENDPOINT_NOT_FOUND``).
        """
        return dict(self._get(self._path(endpoint, "blocks")))

    def pause_endpoint(self, endpoint: str, reason: str = "") -> None:
        """Stop submitting blocks for an elastic endpoint. Running blocks continue.

        Args:
            endpoint: Id or name of the endpoint.
            reason: Why, at most 300 characters; shown in the endpoint's status.

        Raises:
            NotFound: The user has no such elastic endpoint (``ENDPOINT_NOT_FOUND``).
        """
        self._post(self._path(endpoint, "pause"), {"reason": reason} if reason else {})

    def resume_endpoint(self, endpoint: str) -> None:
        """Submit blocks for an elastic endpoint again, after a pause or after failures.

        Args:
            endpoint: Id or name of the endpoint.

        Raises:
            NotFound: The user has no such elastic endpoint (``ENDPOINT_NOT_FOUND``).
        """
        self._post(self._path(endpoint, "resume"), None)

    def change_policy(self, endpoint: str, **rules: float) -> Record:
        """Change rules of an elastic endpoint.

        Args:
            endpoint: Id or name of the endpoint.
            **rules: New values by name, such as ``max_blocks=5``. Other rules keep their values.

        Returns:
            All rules by name.

        Raises:
            NotFound: The user has no such elastic endpoint (``ENDPOINT_NOT_FOUND``).
            BadRequest: A rule is unknown or its value is out of range.
        """
        return dict(self.transport.send(Request("PATCH", self._path(endpoint, "policy"), body=rules)))

    @staticmethod
    def _path(endpoint: str, what: str) -> str:
        return f"/v1/endpoints/{quote(endpoint, safe='')}/{what}"

    def _site(self, body: Record) -> Record:
        return dict(self._post("/v1/sites", body))

    def _post(self, path: str, body: Any) -> Any:
        return self.transport.send(Request("POST", path, body=body))
