"""Limits how much of the broker's memory one endpoint occupies.

Redis has no limit per account, so the keys of all endpoints are measured, some in each sweep. An endpoint
beyond the setting ``broker_quota`` loses its connections and its keys, which are transport only, and may
connect again after a while. Honest workers stop pushing long before (``MAX_UNREAD_REPORTS``).
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from typing import Any

from sqlalchemy import select, update

from umbel.protocol import names

from ..broker.dead_letters import Rejection
from ..context import Federation
from ..db.tables import endpoints
from ..registry import broker_accounts

log = logging.getLogger(__name__)

#: Maximum number of keys measured per sweep.
KEYS_PER_SWEEP = 5000
#: How long an endpoint stays suspended, seconds.
SUSPENDED_SECONDS = 60.0
#: Redis hash of suspended endpoints: id → JSON {"since", "bytes"}.
SUSPENDED_KEY = "umbel:suspended"

# KEYS: any. Returns the memory of each, 0 if it is gone.
_MEASURE = """
local answer = {}
for i = 1, #KEYS do
  local size = redis.pcall('MEMORY', 'USAGE', KEYS[i], 'SAMPLES', '5')
  answer[i] = type(size) == 'number' and size or 0
end
return answer
"""


class BrokerQuota:
    """The measurement of one sweeper, which takes several sweeps if there are many keys."""

    def __init__(self, fed: Federation):
        self.fed = fed
        self._measure = fed.broker.redis.register_script(_MEASURE)
        self._cursor = 0
        self._bytes: Counter[str] = Counter()

    def limit_endpoints(self) -> None:
        """Measure some keys; suspend endpoints that occupy too much, restore others."""
        self._restore()
        redis = self.fed.broker.redis
        measured = 0
        while measured < KEYS_PER_SWEEP:
            self._cursor, keys = redis.scan(self._cursor, match="/ep:*", count=1000)
            for key, size in zip(keys, self._measure(keys, client=redis) if keys else ()):
                self._bytes[_endpoint_of(key)] += size
            measured += 1000
            if self._cursor == 0:
                break
        if self._cursor == 0:
            measured_bytes, self._bytes = self._bytes, Counter()
            self._suspend(measured_bytes)

    def _suspend(self, measured: Counter[str]) -> None:
        for endpoint_id, size in measured.items():
            if size <= self.fed.settings.broker_quota or not names.is_id(endpoint_id):
                continue
            record = json.dumps({"since": time.time(), "bytes": size})
            redis = self.fed.broker.redis
            user = names.broker_user(endpoint_id)
            redis.execute_command("ACL", "SETUSER", user, "off")
            redis.execute_command("CLIENT", "KILL", "USER", user)
            self.fed.broker.drop_endpoint(endpoint_id)
            redis.hset(SUSPENDED_KEY, endpoint_id, record)
            reason = f"the endpoint occupied {size} bytes of the broker and is suspended"
            self._record(endpoint_id, size)
            self.fed.broker.dead_letters.add([Rejection(endpoint_id, reason, size)])
            log.warning("endpoint %s: %s for %.0f s", endpoint_id, reason, SUSPENDED_SECONDS)

    def _record(self, endpoint_id: str, size: int) -> None:
        """Record a suspension in the ledger, for the owner of the endpoint."""
        now, quota = self.fed.clock(), self.fed.settings.broker_quota
        reason = f"it occupied {size} bytes of the broker, and {quota} are allowed; its messages were deleted"
        record = json.dumps({"since": now, "until": now + SUSPENDED_SECONDS, "reason": reason})
        with self.fed.database.write() as connection:
            row = update(endpoints).where(endpoints.c.id == endpoint_id)
            connection.execute(row.values(suspended=record))

    def _restore(self) -> None:
        """Let suspended endpoints connect again when their time is over."""
        now = time.time()
        for field, value in self.fed.broker.redis.hgetall(SUSPENDED_KEY).items():
            since = json.loads(value)["since"]
            if 0 <= now - since < SUSPENDED_SECONDS:
                continue
            endpoint_id = field.decode()
            query = select(endpoints.c.broker_sha256).where(
                endpoints.c.id == endpoint_id, endpoints.c.deleted.is_(None)
            )
            with self.fed.database.read() as connection:
                digest = connection.execute(query).scalar()
            if digest is not None:
                broker_accounts.add_endpoint_user(self.fed, endpoint_id, digest)
                log.warning("endpoint %s: the broker account is enabled again", endpoint_id)
            self.fed.broker.redis.hdel(SUSPENDED_KEY, endpoint_id)


def suspended(fed: Federation) -> dict[str, dict[str, Any]]:
    """Return the suspended endpoints: id → {"since", "bytes"}."""
    found = fed.broker.redis.hgetall(SUSPENDED_KEY)
    return {field.decode(): json.loads(value) for field, value in found.items()}


def _endpoint_of(key: bytes) -> str:
    return key.split(b":", 2)[1].decode("ascii", "replace")
