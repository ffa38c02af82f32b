"""The collector: takes reports from the broker into the ledger, batch by batch.

Any number of collectors may run; each batch is one transaction, and reports leave the broker only after it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, OperationalError

from umbel.protocol.envelope import Verifier, unseal
from umbel.protocol.errors import ProtocolError
from umbel.protocol.messages import OpenReport, Report

from .. import dispatch
from ..broker.client import BrokerError
from ..config.settings import SettingsError
from ..context import Federation
from ..db.tables import endpoints
from ..ledger.apply_reports import Effects, take_in
from ..process import Stop, run_process

log = logging.getLogger(__name__)

#: How long one wait for reports lasts, and how often a collector shows that it lives, seconds.
WAIT = 1.0
#: Redis hash of the collectors: name → JSON {"since", "beat"}, seconds since 1970.
BEATS_KEY = "umbel:collectors"
#: A collector silent for this long is dead, and what it took goes back.
DEAD_AFTER = 30.0
#: A verified public key is looked up again after this long, so that a deleted endpoint loses its voice.
KEY_SECONDS = 30.0


class Collector:
    """One collector. ``name``: unique among those that run."""

    def __init__(self, fed: Federation, name: str):
        self.fed = fed
        self.name = name
        self.since = time.time()
        self.dropped = 0
        self._keys: dict[str, tuple[float, Verifier | None]] = {}
        self._beat = 0.0
        # whether reports may lie in our own list that are not in the ledger
        self._unsure = True

    def run(self, stop: Stop) -> None:
        """Collect until ``stop`` is set; survives a broker and a database that are away."""
        while not stop.is_set():
            try:
                self.beat()
                self.collect(WAIT)
            except BrokerError as error:
                log.warning("collector lost the broker, trying again: %s", error)
                stop.wait(0.5)
            except OperationalError as error:
                # a database that is away or restarts, or a deadlock that PostgreSQL has cut
                log.warning("collector cannot use the database, trying again: %s", error)
                stop.wait(0.5)

    def beat(self) -> None:
        """Show that this collector lives; give back what dead ones had taken."""
        now = time.time()
        if now - self._beat < WAIT:
            return
        redis = self.fed.broker.redis
        for field, value in redis.hgetall(BEATS_KEY).items():
            name = field.decode()
            if name != self.name and json.loads(value)["beat"] < now - DEAD_AFTER:
                log.warning("collector %s is dead, %d reports go back", name, self.fed.broker.recover(name))
                redis.hdel(BEATS_KEY, name)
        redis.hset(BEATS_KEY, self.name, json.dumps({"since": self.since, "beat": now}))
        self._beat = now

    def collect(self, timeout: float) -> Effects | None:
        """Take one batch of reports in; return what came of it, None when there was none."""
        if self._unsure:
            # by an earlier process of this name, or by a take or a transaction that failed
            self.fed.broker.recover(self.name)
        self._unsure = True
        raw = self.fed.broker.take(self.name, timeout)
        if not raw:
            self._unsure = False
            return None
        reports = [report for report in map(self._open, raw) if report is not None]
        effects = self._take_in(reports)
        self.fed.broker.taken_done(self.name, [*effects.groups, *effects.spoken])
        self._unsure = False
        dispatch.send(self.fed, effects.planned)
        self.dropped += effects.dropped
        log.debug("%d reports, %d tasks ended, %d dropped", len(reports), effects.ended, effects.dropped)
        return effects

    def _take_in(self, reports: Sequence[OpenReport]) -> Effects:
        try:
            with self.fed.database.write() as connection:
                return take_in(self.fed, connection, reports, time.time())
        except OperationalError:
            raise
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, DBAPIError):
            # a signed report with nonsense in it: find it, and let the others through
            if len(reports) == 1:
                log.exception(
                    "report %s of endpoint %s makes no sense, dropped", reports[0].id, reports[0].endpoint
                )
                return Effects()
        together = Effects()
        for report in reports:
            one = self._take_in([report])
            together.groups.update(one.groups)
            together.spoken.update(one.spoken)
            together.planned += one.planned
            together.ended += one.ended
            together.dropped += one.dropped
        return together

    def _open(self, raw: bytes) -> OpenReport | None:
        """Check one report; None when it cannot be believed."""
        try:
            sealed = unseal(raw)
            verifier = self._verifier(Report.sender(sealed))
            if verifier is None:
                raise ProtocolError("it comes from an endpoint that is not registered")
            return Report.open(verifier, sealed, time.time())
        except ProtocolError as error:
            log.warning("a report of %d bytes is dropped: %s", len(raw), error)
            return None

    def _verifier(self, endpoint_id: str) -> Verifier | None:
        known = self._keys.get(endpoint_id)
        now = time.monotonic()
        if known is not None and now - known[0] < KEY_SECONDS:
            return known[1]
        query = select(endpoints.c.public_key).where(
            endpoints.c.id == endpoint_id, endpoints.c.deleted.is_(None)
        )
        with self.fed.database.read() as connection:
            key = connection.execute(query).scalar()
        if len(self._keys) > 100_000:
            self._keys.clear()
        verifier = Verifier(key) if key is not None else None
        self._keys[endpoint_id] = now, verifier
        return verifier


def collectors(fed: Federation) -> dict[str, dict[str, Any]]:
    """The collectors that have shown themselves: name → {"since", "beat"}."""
    return {name.decode(): json.loads(value) for name, value in fed.broker.redis.hgetall(BEATS_KEY).items()}


@contextmanager
def _own_name(fed: Federation) -> Iterator[str]:
    """A name that no other running collector of this home has: the first free of <host>-0, <host>-1, …

    A collector that is started again gets the name that it had, and so finds at once what it had taken.
    """
    folder = fed.settings.home / "run"
    folder.mkdir(mode=0o700, exist_ok=True)
    for number in range(1000):
        with open(folder / f"collect-{number}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield f"{os.uname().nodename}-{number}"
            return
    raise SettingsError(f"there are already 1000 collectors on {folder}")


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m federation collect``: collect until SIGTERM."""

    def run(fed: Federation, stop: Stop) -> None:
        with _own_name(fed) as name:
            Collector(fed, name).run(stop)

    return run_process("collect", run, argv)
