"""Watches the nodes of endpoints in the broker, and records in the ledger what has changed.

Nodes overwrite their beats every few seconds, and their signed descriptions when they change. Silence counts
only while beats are read without a gap: a node is lost if its beat has not changed for ``node_lost_after`` of
this process's monotonic clock, in which every look was answered and the endpoint's epoch stayed the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select

from umbel.protocol.errors import ProtocolError
from umbel.protocol.limits import HEARTBEAT_INTERVAL
from umbel.protocol.node_state import Beat, NodeState
from umbel.system.clock import monotonic

from .. import dispatch
from ..broker.client import BrokerError
from ..broker.dead_letters import Rejection
from ..broker.node_states import Beats
from ..context import Federation
from ..db import shared
from ..db.errors import RETRYABLE
from ..db.tables import endpoints
from ..ledger import node_rows
from ..ledger.node_rows import NodeRow, Standing, TooManyNodes
from .endpoint_keys import EndpointKey, EndpointKeys

log = logging.getLogger(__name__)

#: A beat that has changed is recorded after this long even if nothing but its counter has, seconds; earlier
#: if ``node_lost_after`` is short, since a node that was not seen for so long is shown as offline.
SEEN_INTERVAL = 20.0
#: A clock that has changed by this much is recorded at once, seconds.
NOTABLE_CLOCK = 1.0
#: Longest time between two looks in which silence counts, seconds.
MAX_GAP = 15.0


@dataclass
class Instance:
    """What this process has seen of one instance. Times are those of its monotonic clock.

    ``state``: its description, None if there is no valid one; ``version``: of the description that was read;
    ``since``: first look at it; ``changed``: look at which its beat had changed last, 0.0 if never;
    ``recorded``: when a beat was last written to the ledger; ``written``: that beat; ``confirmed``: whether
    the instance may fetch bundles since its present description.
    """

    beat: Beat
    since: float
    state: NodeState | None = None
    version: int = -1
    changed: float = 0.0
    recorded: float = 0.0
    written: Beat | None = None
    confirmed: bool = False


@dataclass
class Watched:
    """What this process has seen of one endpoint.

    ``epoch``: of its keys; ``counts``: since when silence counts; ``looked``: the last look; ``silent``:
    nodes that the ledger considers live and whose beats are missing, and since when.
    """

    epoch: int
    counts: float
    looked: float
    instances: dict[str, Instance] = field(default_factory=dict)
    silent: dict[str, float] = field(default_factory=dict)


class NodeWatch:
    """The view of one process. ``ticks``: its monotonic clock."""

    def __init__(self, fed: Federation, keys: EndpointKeys, ticks: Callable[[], float] = monotonic):
        self._fed, self._keys, self._ticks = fed, keys, ticks
        self._seen_interval = min(SEEN_INTERVAL, fed.settings.node_lost_after / 3)
        self._watched: dict[str, Watched] = {}

    def look(self, endpoint_ids: Sequence[str]) -> None:
        """Read the nodes of these endpoints; record new and changed ones.

        May raise one of ``BrokerError`` or ``RETRYABLE``. An error that concerns one endpoint only is logged.
        """
        if not endpoint_ids:
            return
        for endpoint_id, found in self._fed.broker.node_states.beats(endpoint_ids).items():
            try:
                self._look_at(endpoint_id, found)
            except (*RETRYABLE, *BrokerError):
                raise
            except Exception:
                log.exception("endpoint %s: its nodes cannot be recorded", endpoint_id)

    def interrupted(self) -> None:
        """Start over counting silence: nodes may have been unable to write, or this process to read."""
        for watched in self._watched.values():
            watched.counts = self._ticks()

    def watched(self, endpoint_id: str) -> Watched | None:
        """Return what this process knows of an endpoint, or None if it has not looked at it."""
        return self._watched.get(endpoint_id)

    def forget(self, endpoint_id: str, instances: Iterable[str]) -> None:
        """Forget instances whose keys were removed."""
        watched = self._watched.get(endpoint_id)
        for instance in instances if watched else ():
            watched.instances.pop(instance, None)  # type: ignore[union-attr]

    def silent_nodes(self, endpoint_id: str, live: Iterable[NodeRow]) -> list[NodeRow]:
        """Return those of an endpoint's live nodes that have been silent for too long."""
        watched = self._watched.get(endpoint_id)
        if watched is None:
            return []
        found, missing = [], {}
        for row in live:
            known = watched.instances.get(row.instance)
            if known is None:
                last = missing[row.instance] = watched.silent.get(row.instance, watched.looked)
            else:
                last = max(known.changed, known.since)
            if watched.looked - max(last, watched.counts) > self._fed.settings.node_lost_after:
                found.append(row)
        watched.silent = missing
        return found

    def has_ended(self, watched: Watched, instance: str, beat: Beat, rows: dict[str, NodeRow]) -> bool:
        """Return whether an instance certainly fetches nothing any more, given the rows of its endpoint.

        One that a later instance of its node has replaced has ended. One that was considered lost may have
        come back, so its beat must not have changed for a while. The same holds for one that the ledger does
        not know, because its description is not valid or its endpoint has too many nodes.
        """
        known = watched.instances.get(instance)
        if known is None or known.beat.number != beat.number:
            return False
        unchanged = watched.looked - max(known.since, known.changed)
        row = rows.get(known.state.node) if known.state is not None else None
        standing = node_rows.standing(known.state, row) if known.state is not None else Standing.NEW
        if standing is Standing.NEW or row is None:
            return unchanged > self._fed.settings.node_lost_after
        return standing is Standing.ENDED and (row.instance != instance or unchanged > 2 * HEARTBEAT_INTERVAL)

    def _look_at(self, endpoint_id: str, found: Beats) -> None:
        now = self._ticks()
        watched = self._watched.get(endpoint_id)
        if watched is None or watched.epoch != found.epoch:
            known = watched.instances if watched is not None else {}
            watched = self._watched[endpoint_id] = Watched(found.epoch, now, now, known)
        elif now - watched.looked > min(MAX_GAP, self._fed.settings.node_lost_after / 2):
            watched.counts = now
        watched.looked = now
        for gone in watched.instances.keys() - found.beats.keys():
            del watched.instances[gone]
        moved = self._take_beats(watched, found.beats, now)
        key = self._keys.find(endpoint_id) if moved else None
        if key is None:
            return
        self._read_descriptions(endpoint_id, key, watched, found.beats)
        self._record(endpoint_id, key, watched, moved, now)

    def _take_beats(self, watched: Watched, beats: dict[str, Beat], now: float) -> set[str]:
        """Note the beats; return the instances that have moved since the last look, or are new."""
        moved = set()
        for instance, beat in beats.items():
            known = watched.instances.get(instance)
            if known is None:
                watched.instances[instance] = Instance(beat, now)
                moved.add(instance)
            elif known.beat.number != beat.number:
                known.beat, known.changed = beat, now
                moved.add(instance)
        return moved

    def _read_descriptions(
        self, endpoint_id: str, key: EndpointKey, watched: Watched, beats: dict[str, Beat]
    ) -> None:
        """Read and verify the descriptions that have changed."""
        needed = [id for id, beat in beats.items() if watched.instances[id].version != beat.version]
        if not needed:
            return
        found = self._fed.broker.node_states.descriptions(endpoint_id, needed)
        for instance in needed:
            known = watched.instances[instance]
            known.version = beats[instance].version
            try:
                data = found.get(instance)
                if data is None:
                    raise ProtocolError("the description of a node is missing or too large")
                known.state = NodeState.open(key.verifier, data, endpoint=endpoint_id, instance=instance)
                # it may be newer than the beat
                known.version = known.state.version if known.state.version >= known.version else -1
                known.recorded, known.confirmed = 0.0, False
            except ProtocolError as error:
                self._reject(endpoint_id, error.message)

    def _record(
        self, endpoint_id: str, key: EndpointKey, watched: Watched, moved: set[str], now: float
    ) -> None:
        """Write to the ledger what has changed; confirm instances that are in it."""
        states = {id: each.state for id, each in watched.instances.items() if each.state and id in moved}
        if not states:
            return
        with self._fed.database.read() as connection:
            rows = node_rows.rows_of(connection, key.no, (state.node for state in states.values()))
        described, beats, confirmed = [], [], []
        for instance, state in states.items():
            known, row = watched.instances[instance], rows.get(state.node)
            standing = node_rows.standing(state, row)
            back = standing is Standing.ENDED and row is not None and row.instance == instance
            if standing is Standing.NEW or (back and known.changed):
                described.append(instance)
            elif standing is Standing.CURRENT and row is not None:
                if row.version != state.version:
                    described.append(instance)
                elif now - known.recorded >= self._seen_interval or _differs(known.written, known.beat):
                    beats.append((row.no, instance, known.beat))
                # again until it succeeds: whoever has recorded the instance may have ended before this
                if not known.confirmed:
                    confirmed.append(instance)
        confirmed += self._write(endpoint_id, key.no, watched, described, beats)
        for instance in [*described, *(instance for _, instance, _ in beats)]:
            known = watched.instances[instance]
            known.recorded, known.written = now, known.beat
        self._fed.broker.node_states.confirm(endpoint_id, confirmed)
        for instance in confirmed:
            watched.instances[instance].confirmed = True

    def _write(
        self,
        endpoint_id: str,
        endpoint_no: int,
        watched: Watched,
        described: Sequence[str],
        beats: Sequence[tuple[int, str, Beat]],
    ) -> list[str]:
        """Write descriptions and beats; return the instances that are the live ones of their nodes."""
        if not described and not beats:
            return []
        now, current = self._fed.clock(), []
        planned: list[dispatch.PlannedBundle] = []
        with self._fed.database.write() as connection:
            if described:
                shared.lock_endpoints(connection, [endpoint_no])
                query = select(endpoints.c.deleted).where(endpoints.c.no == endpoint_no)
                if connection.execute(query).scalar() is not None:
                    return []  # in the meantime
            for instance in described:
                known = watched.instances[instance]
                assert known.state is not None
                try:
                    if node_rows.record_description(connection, endpoint_no, known.state, known.beat, now):
                        current.append(instance)
                except TooManyNodes as error:
                    known.state = None
                    self._reject(endpoint_id, str(error))
            node_rows.record_beats(connection, beats, now)
            if described:
                planned = dispatch.refill(self._fed, connection, endpoint_no, now)
        if described:
            dispatch.after_commit(self._fed, planned, [endpoint_no])
        return current

    def _reject(self, endpoint_id: str, reason: str) -> None:
        self._fed.broker.dead_letters.add([Rejection(endpoint_id, reason, b"")])
        log.warning("endpoint %s: a node is ignored: %s", endpoint_id, reason)


def _differs(written: Beat | None, beat: Beat) -> bool:
    """Return whether a beat must be written to the ledger at once."""
    if written is None or (written.busy, written.queue) != (beat.busy, beat.queue):
        return True
    return abs(written.clock_ahead - beat.clock_ahead) >= NOTABLE_CLOCK
