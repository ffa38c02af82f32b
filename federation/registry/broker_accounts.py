"""Redis accounts of endpoints: each may access its own keys and channels, and nothing else.

The command list was determined by running Celery workers and reading ``ACL LOG``;
see ``docs/explanation/security.rst``.
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote

from sqlalchemy import select

from umbel.protocol import names

from ..context import Federation
from ..db.shared import among
from ..db.tables import endpoints

log = logging.getLogger(__name__)

#: An account without rights that exists as long as the endpoints' accounts do.
SENTINEL = "umbel-accounts"
#: Redis key with the id of the broker's process in which the accounts were created.
RUN_KEY = "umbel:run"

#: Commands that an endpoint's worker needs on its own keys and channels.
COMMANDS = (
    "+hello +ping +client|setname +multi +exec +discard +watch +unwatch +time "
    "+blmove +lrem +lrange +brpop +llen +lpush +rpush "
    "+del +strlen +setrange +get +mget +set +setex +exists +expire "
    "+hset +hget +hdel +zadd +zrem +zrange +zrangebyscore +sadd +srem +smembers +sismember "
    "+publish +subscribe +unsubscribe +psubscribe +punsubscribe +evalsha"
).split()


def rules(endpoint_id: str, password_sha256: str) -> list[str]:
    """Return the ACL rules of one endpoint."""
    prefix = names.prefix(endpoint_id)
    keys = [f"~{prefix}*", f"&{prefix}*", f"&{prefix}/0.celery.pidbox"]  # PSUBSCRIBE needs a literal match
    return ["reset", "on", f"#{password_sha256}", "nocommands", "resetchannels", *keys, *COMMANDS]


def add_endpoint_user(fed: Federation, endpoint_id: str, password_sha256: str) -> None:
    """Create or renew the broker account of an endpoint. Raises one of ``BrokerError``."""
    add = fed.broker.redis.pipeline(transaction=False)
    _add(add, endpoint_id, password_sha256)
    add.execute()


def _add(pipe: Any, endpoint_id: str, password_sha256: str) -> None:
    words = rules(endpoint_id, password_sha256)
    pipe.execute_command("ACL", "SETUSER", names.broker_user(endpoint_id), *words)


def remove_endpoint_user(fed: Federation, endpoint_id: str) -> None:
    """Delete an endpoint's account; Redis closes its open connections at once."""
    fed.broker.redis.execute_command("ACL", "DELUSER", names.broker_user(endpoint_id))


def ensure_endpoint_users(fed: Federation) -> int:
    """Recreate the accounts of all endpoints, after the broker lost its data; return how many."""
    with fed.database.read() as connection:
        query = select(endpoints.c.id, endpoints.c.broker_sha256).where(endpoints.c.deleted.is_(None))
        rows = connection.execute(query).all()
    for start in range(0, len(rows), 500):
        pipe = fed.broker.redis.pipeline(transaction=False)
        for row in rows[start : start + 500]:
            _add(pipe, row.id, row.broker_sha256)
        pipe.execute()
    _remove_deleted(fed)
    _mark_complete(fed)
    return len(rows)


def _remove_deleted(fed: Federation) -> None:
    """Remove the accounts of endpoints that were deleted while the broker was unreachable."""
    prefix = names.broker_user("")
    users = {_text(user) for user in fed.broker.redis.execute_command("ACL", "USERS")}
    ids = [user[len(prefix) :] for user in users if user.startswith(prefix)]
    with fed.database.read() as connection:
        query = select(endpoints.c.id).where(
            among(connection, endpoints.c.id, ids), endpoints.c.deleted.is_not(None)
        )
        deleted = list(connection.execute(query).scalars())
    for endpoint_id in deleted:
        remove_endpoint_user(fed, endpoint_id)


def _mark_complete(fed: Federation) -> None:
    """Record that this run of the broker has all accounts; see ``accounts_lost``."""
    fed.broker.redis.execute_command("ACL", "SETUSER", SENTINEL, "reset", "off")
    fed.broker.redis.set(RUN_KEY, _run_id(fed))


def accounts_lost(fed: Federation) -> bool:
    """Return whether the broker may have lost accounts: it restarted, or the sentinel account is missing.

    Redis does not save accounts that were created by a command, even if it saves its data.
    """
    redis = fed.broker.redis
    if _text(redis.get(RUN_KEY)) != _run_id(fed):
        return True
    return redis.execute_command("ACL", "GETUSER", SENTINEL) is None


def _run_id(fed: Federation) -> str:
    """Return the id of the broker's process."""
    return str(fed.broker.redis.info("server").get("run_id", ""))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def credentials_url(fed: Federation, endpoint_id: str, password: str) -> str:
    """Return the broker URL for an endpoint's credentials."""
    address = fed.settings.broker_address or fed.broker.address
    return f"redis://{names.broker_user(endpoint_id)}:{quote(password, safe='')}@{address}/0"
