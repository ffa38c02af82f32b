"""The health of the service: database, broker, and the lag of the collectors."""

from __future__ import annotations

import logging
from typing import Any

import redis

from umbel.protocol.version import PROTOCOL_VERSION, __version__

from ..broker.client import BrokerError
from ..context import Federation
from ..registry.endpoints import registered_ids
from ..standalone.files import PidLock, starting_file
from . import collector

log = logging.getLogger(__name__)


def health(fed: Federation) -> dict[str, Any]:
    """Return ``status`` and the state of each part.

    ``status``: "ok", "degraded" if a part does not respond, or "starting" until ``up`` has started all parts.

    ``collector_lag``: seconds since the last heartbeat of a collector (None: no heartbeat yet);
    ``reports_waiting``: number of reports that are not in the ledger yet; ``reports_rejected``: number of
    reports that were rejected because of their content.
    """
    database, endpoint_ids = _database(fed)
    broker, lag, waiting, rejected = _broker(fed, endpoint_ids)
    broker = _writable(fed) if broker == "ok" else broker
    healthy = database == broker == "ok" and lag is not None and lag < collector.DEAD_AFTER
    starting = PidLock.is_held(starting_file(fed.settings.home))
    return {
        "status": "starting" if starting else "ok" if healthy else "degraded",
        "database": database,
        "broker": broker,
        "collector_lag": lag,
        "reports_waiting": waiting,
        "reports_rejected": rejected,
        "version": __version__,
        "protocol": PROTOCOL_VERSION,
    }


def _database(fed: Federation) -> tuple[str, list[str]]:
    try:
        with fed.database.read() as connection:
            return "ok", registered_ids(connection)
    except Exception as error:  # a damaged database raises errors that are not translated
        log.warning("health: the database does not respond: %s", error)
        return "unreachable", []


def _broker(fed: Federation, endpoint_ids: list[str]) -> tuple[str, float | None, int | None, int | None]:
    try:
        beats = [beat["beat"] for beat in collector.collectors(fed).values()]
        waiting = sum(fed.broker.report_lists.waiting(endpoint_ids).values())
        rejected = fed.broker.dead_letters.count()
    except redis.exceptions.BusyLoadingError:
        return "loading", None, None, None
    except BrokerError:
        return "unreachable", None, None, None
    lag = round(max(0.0, fed.clock() - max(beats)), 3) if beats else None
    return "ok", lag, waiting, rejected


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
