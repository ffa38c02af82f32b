"""The health of the service: database, broker, and the lag of the collectors."""

from __future__ import annotations

import logging
from typing import Any

import redis
from sqlalchemy import text

from umbel.protocol import names
from umbel.protocol.version import PROTOCOL_VERSION, __version__

from ..broker.client import BrokerError
from ..context import Federation
from . import collector

log = logging.getLogger(__name__)


def health(fed: Federation) -> dict[str, Any]:
    """Return ``status`` ("ok", or "degraded" if a part does not respond) and the state of each part.

    ``collector_lag``: seconds since the last heartbeat of a collector (None: no heartbeat yet);
    ``reports_waiting``: number of reports that no collector has received yet.
    """
    database = _database(fed)
    broker, lag, waiting = _broker(fed)
    broker = _writable(fed) if broker == "ok" else broker
    healthy = database == broker == "ok" and lag is not None and lag < collector.DEAD_AFTER
    return {
        "status": "ok" if healthy else "degraded",
        "database": database,
        "broker": broker,
        "collector_lag": lag,
        "reports_waiting": waiting,
        "version": __version__,
        "protocol": PROTOCOL_VERSION,
    }


def _database(fed: Federation) -> str:
    try:
        with fed.database.read() as connection:
            connection.execute(text("SELECT 1"))
    except Exception as error:  # a damaged database raises errors that are not translated
        log.warning("health: the database does not respond: %s", error)
        return "unreachable"
    return "ok"


def _broker(fed: Federation) -> tuple[str, float | None, int | None]:
    try:
        beats = [beat["beat"] for beat in collector.collectors(fed).values()]
        waiting = int(fed.broker.redis.llen(names.REPORTS_KEY))
    except redis.exceptions.BusyLoadingError:
        return "loading", None, None
    except BrokerError:
        return "unreachable", None, None
    lag = round(max(0.0, fed.clock() - max(beats)), 3) if beats else None
    return "ok", lag, waiting


def _writable(fed: Federation) -> str:
    """Return "ok", or why the broker accepts no commands that write."""
    try:
        fed.broker.redis.set("umbel:health", "1", ex=60)
    except redis.exceptions.OutOfMemoryError:
        return "full"
    except redis.exceptions.ReadOnlyError:
        return "read-only"
    except redis.exceptions.BusyLoadingError:
        return "loading"
    except BrokerError:
        return "unreachable"
    return "ok"
