"""The public keys with which what endpoints have signed is verified."""

from __future__ import annotations

import time
from typing import NamedTuple

from sqlalchemy import select

from umbel.protocol.envelope import Verifier

from ..context import Federation
from ..db.tables import endpoints

#: Lifetime of a cached key; what a deleted endpoint sends is rejected after it, seconds.
KEY_SECONDS = 30.0
#: Maximum number of cached keys.
MAX_KEYS = 100_000


class EndpointKey(NamedTuple):
    """The number of an endpoint and its key."""

    no: int
    verifier: Verifier


class EndpointKeys:
    """Reads keys from the registry and caches them."""

    def __init__(self, fed: Federation):
        self._fed = fed
        self._keys: dict[str, tuple[float, EndpointKey | None]] = {}

    def find(self, endpoint_id: str) -> EndpointKey | None:
        """Return the key of an endpoint, or None if no endpoint of this id is registered."""
        known = self._keys.get(endpoint_id)
        now = time.monotonic()
        if known is not None and now - known[0] < KEY_SECONDS:
            return known[1]
        query = select(endpoints.c.no, endpoints.c.public_key).where(
            endpoints.c.id == endpoint_id, endpoints.c.deleted.is_(None)
        )
        with self._fed.database.read() as connection:
            row = connection.execute(query).first()
        if len(self._keys) > MAX_KEYS:
            self._keys.clear()
        key = None if row is None else EndpointKey(row.no, Verifier(row.public_key))
        self._keys[endpoint_id] = now, key
        return key
