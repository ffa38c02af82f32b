"""Grants for bundles whose calls may submit further calls; see ``umbel.protocol.grant``."""

from __future__ import annotations

from collections.abc import Callable

from umbel.protocol import grant
from umbel.protocol.envelope import Signer
from umbel.protocol.messages import Bundle

from ..config.directory import Credentials
from ..config.settings import Settings


class Grants:
    """Writes grants for bundles that ask for one, if the site allows it. ``clock``: seconds since 1970."""

    def __init__(
        self, signer: Signer, credentials: Credentials, settings: Settings, clock: Callable[[], float]
    ):
        self._signer = signer
        self._endpoint = credentials.endpoint_id
        self._allowed = settings.nested_submit
        self._url = settings.api_url or credentials.api_url
        self._clock = clock

    def for_bundle(self, bundle: Bundle) -> dict[str, str] | None:
        """Return address and grant for the calls of a bundle, or None if they may not submit."""
        if not (self._allowed and bundle.options.nested):
            return None
        written = grant.write(self._signer, self._endpoint, bundle.id, self._clock())
        return {"url": self._url, "grant": written}
