"""Elastic endpoints, whose workers come as batch jobs on a site: one method per route."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from .routes import Record, Routes
from .transport import Request


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
