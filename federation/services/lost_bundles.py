"""Finds bundles that are open in the ledger and nowhere in the broker, and sends their calls again.

Nothing here depends on when a report or a beat is read; see docs/decisions/0030-holdings.rst.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, exists, select, update

from umbel.protocol import names
from umbel.system.clock import monotonic

from .. import dispatch
from ..broker.client import BrokerError
from ..broker.node_states import Beats
from ..context import Federation
from ..db import shared
from ..db.errors import RETRYABLE
from ..db.tables import bundles, endpoints, loads
from ..ledger import node_rows
from ..ledger.epochs import BEFORE
from ..ledger.node_rows import interruption_codes
from ..ledger.requeue import requeue, requeue_lost
from ..ledger.task_rows import tasks_in_bundles
from ..registry.endpoints import registered_ids
from .node_watch import NodeWatch

log = logging.getLogger(__name__)

#: An endpoint without a live node is checked this often, seconds.
OFFLINE_INTERVAL = 30.0
#: Maximum bundles whose calls are sent again in one transaction.
BATCH = 1000
#: The checks of an endpoint take at most about this share of the time, unless the pause would be longer than
#: ``MAX_PAUSE``, seconds: a check during which the process was suspended is no measure.
SHARE, MAX_PAUSE = 0.05, 60.0


class Open(NamedTuple):
    """An open bundle in the ledger."""

    no: int
    id: str
    sent: float
    epoch: int


@dataclass
class Lost:
    """Bundles that are lost. ``never``: certainly not started; ``elsewhere``: they may have been started;
    ``ended``: fetched by an instance that has ended, with the name of its node."""

    never: list[Open] = field(default_factory=list)
    elsewhere: list[Open] = field(default_factory=list)
    ended: dict[str, list[Open]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.never or self.elsewhere or self.ended)


class LostBundles:
    """The view of one sweeper. ``ticks``: its monotonic clock."""

    def __init__(self, fed: Federation, watch: NodeWatch, ticks: Callable[[], float] = monotonic):
        self._fed, self._watch, self._ticks = fed, watch, ticks
        # endpoint number → time of its next check
        self._next: dict[int, float] = {}
        # endpoint number → id of a bundle that is nowhere → when this was first seen. Not its number: the
        # database gives that of a deleted bundle to another one
        self._missing: dict[int, dict[str, float]] = {}

    def check(self) -> None:
        """Check the endpoints that have open bundles or nodes that have ended, each when it is due."""
        query = select(endpoints.c.no, endpoints.c.id, endpoints.c.epoch).where(
            endpoints.c.deleted.is_(None),
            exists().where(loads.c.endpoint_no == endpoints.c.no, loads.c.live > 0),
        )
        with self._fed.database.read() as connection:
            found = connection.execute(query).all()
        for number in self._missing.keys() - {row.no for row in found}:
            del self._missing[number]
        for row in found:
            began = self._ticks()
            if began < self._next.get(row.no, 0.0):
                continue
            try:
                online = self._check(row.no, row.id, row.epoch)
            except (*RETRYABLE, *BrokerError):
                raise
            except Exception:
                log.exception("endpoint %s: its bundles cannot be checked", row.id)
                online = False
            ended = self._ticks()
            pause = min(MAX_PAUSE, (ended - began) / SHARE - (ended - began))
            self._next[row.no] = ended + max(pause, 0.0 if online else OFFLINE_INTERVAL)

    def clear(self) -> None:
        """Start over."""
        self._missing.clear()
        self._next.clear()

    def _check(self, no: int, endpoint_id: str, epoch: int) -> bool:
        """Check one endpoint; return whether it has nodes."""
        # before the ledger is read: a bundle is recorded before it is pushed
        sent = self._fed.broker.holdings.sent(endpoint_id)
        with self._fed.database.read() as connection:
            suspects = _open_bundles(connection, no)
            live = node_rows.live_instances(connection, no)
        found = self._fed.broker.node_states.beats([endpoint_id])[endpoint_id]
        if found.epoch != epoch or not epoch:
            begin_epoch(self._fed, no, endpoint_id, epoch)
            self._missing.pop(no, None)
            return True
        if any(row.instance not in found.beats for row in live):
            # after a loss of keys: it will announce what it holds, or is dead
            self._missing.pop(no, None)
            return True
        ended = self._ended(no, endpoint_id, found)
        if suspects:
            lost = self._lost(no, endpoint_id, epoch, suspects, found, ended)
            if lost:
                self._send_again(no, endpoint_id, epoch, lost)
        self._remove(endpoint_id, ended)
        if over := sorted(sent.difference(each.id for each in suspects)):
            self._fed.broker.holdings.forget_sent(endpoint_id, over)
        return bool(found.beats)

    def _lost(
        self,
        no: int,
        endpoint_id: str,
        epoch: int,
        suspects: list[Open],
        found: Beats,
        nodes: Mapping[str, str],
    ) -> Lost:
        """Return the lost bundles; ``nodes``: the names of the nodes of instances that have ended."""
        old = self._fed.clock() - self._fed.settings.resend_after
        unsent = [each.id for each in suspects if each.epoch == epoch and each.sent < old]
        revoked = self._fed.broker.holdings.revoke_unsent(endpoint_id, unsent)
        # in the order in which bundles move
        queued = self._fed.broker.queued(endpoint_id)
        at = self._fed.broker.holdings.at_instances(endpoint_id, list(found.beats))
        if not self._fed.broker.holdings.is_epoch(endpoint_id, epoch):
            return Lost()  # the keys were lost in between: what was not found may be at a node
        held = queued.union(*(ids for instance, ids in at.items() if instance not in nodes))
        by_node = {id: node for instance, node in nodes.items() for id in at[instance]}
        lost, missing = Lost(), {}
        for each in suspects:
            if each.id in revoked:
                lost.never.append(each)
            elif each.id in held:
                continue
            elif each.id in by_node:
                lost.ended.setdefault(by_node[each.id], []).append(each)
            elif each.sent < old or each.epoch != epoch:
                missing[each.id] = each
        self._sort_missing(no, epoch, missing, lost)
        return lost

    def _sort_missing(self, no: int, epoch: int, missing: dict[str, Open], lost: Lost) -> None:
        """Decide about bundles that are nowhere.

        Before a loss of keys, one was in the queue unless a node had fetched it, and such a node has
        announced it since or has ended. All others must be missing for a while: a node that was considered
        lost may come back, with a bundle that was in none of the places while it was away. What was sent
        before a loss of the ledger may have been run by a node that the ledger does not know.
        """
        before = self._missing.get(no, {})
        now = self._ticks()
        since = self._missing[no] = {id: before.get(id, now) for id in missing}
        with self._fed.database.read() as connection:
            last_loss = node_rows.last_loss(connection, no)
        for id, each in missing.items():
            if each.epoch not in (epoch, BEFORE) and each.sent > last_loss:
                lost.never.append(each)
            elif now - since[id] >= self._fed.settings.resend_after:
                lost.elsewhere.append(each)

    def _ended(self, no: int, endpoint_id: str, found: Beats) -> dict[str, str]:
        """Return the instances that have ended, with the names of their nodes."""
        watched = self._watch.watched(endpoint_id)
        if watched is None:
            return {}
        states = {id: each.state for id, each in watched.instances.items()}
        with self._fed.database.read() as connection:
            rows = node_rows.rows_of(connection, no, {state.node for state in states.values() if state})
        return {
            instance: state.node if (state := states.get(instance)) else ""
            for instance, beat in found.beats.items()
            if self._watch.has_ended(watched, instance, beat, rows)
        }

    def _send_again(self, no: int, endpoint_id: str, epoch: int, lost: Lost) -> None:
        """Queue the calls of lost bundles that are still open, or end them, some bundles at a time."""
        calls = 0
        for node, found in [(None, lost.never), ("", lost.elsewhere), *lost.ended.items()]:
            for start in range(0, len(found), BATCH):
                calls += self._send_some_again(no, epoch, found[start : start + BATCH], node)
        log.warning(
            "endpoint %s: lost bundles: %d before they were fetched, %d with nodes that ended, %d after they "
            "were sent; %d calls requeued or ended",
            endpoint_id,
            len(lost.never),
            sum(map(len, lost.ended.values())),
            len(lost.elsewhere),
            calls,
        )

    def _send_some_again(self, no: int, epoch: int, lost: list[Open], node: str | None) -> int:
        """Return the number of calls. ``node``: that fetched them, "" if it is not known, None: no node.

        Another sweeper may have sent them again since, in bundles that have the numbers of these.
        """
        now = self._fed.clock()
        groups: dict[str, int] = {}
        with self._fed.database.write() as connection:
            shared.lock_endpoints(connection, [no])
            if not _epoch_is(connection, no, epoch):
                return 0
            still = select(bundles.c.no).where(
                shared.among(connection, bundles.c.id, [each.id for each in lost])
            )
            calls = tasks_in_bundles(connection, list(connection.execute(still).scalars()))
            if node is None:
                requeue(connection, calls, counted=False)
            else:
                groups = requeue_lost(connection, calls, now, {}, interruption_codes(node, calls))
            planned = dispatch.refill(self._fed, connection, no, now)
        dispatch.after_commit(self._fed, planned, [no])
        self._fed.broker.notify(groups)
        return len(calls)

    def _remove(self, endpoint_id: str, instances: Iterable[str]) -> None:
        """Remove the keys of instances that have ended, after their bundles were sent again."""
        ended = sorted(instances)
        if ended:
            self._fed.broker.node_states.remove(endpoint_id, ended)
            self._watch.forget(endpoint_id, ended)


def begin_epoch(fed: Federation, no: int, endpoint_id: str, epoch: int) -> None:
    """Begin a new epoch of an endpoint whose keys were lost, unless another process was faster."""
    new = names.new_epoch()
    with fed.database.write() as connection:
        shared.lock_endpoints(connection, [no])
        change = update(endpoints).where(endpoints.c.no == no, endpoints.c.epoch == epoch)
        if not connection.execute(change.values(epoch=new)).rowcount:
            return
    fed.broker.holdings.begin_epochs([endpoint_id], new)
    log.warning("endpoint %s: its keys in the broker are new or were lost; checking its bundles", endpoint_id)


def begin_all_epochs(fed: Federation) -> None:
    """Begin a new epoch of all endpoints, after the broker's data was lost or removed."""
    new = names.new_epoch()
    with fed.database.write() as connection:
        shared.lock_endpoints(connection, connection.execute(select(endpoints.c.no)).scalars())
        connection.execute(update(endpoints).where(endpoints.c.deleted.is_(None)).values(epoch=new))
        known = registered_ids(connection)
    for start in range(0, len(known), 500):
        fed.broker.holdings.begin_epochs(known[start : start + 500], new)


def _open_bundles(connection: Connection, no: int) -> list[Open]:
    columns = (bundles.c[name] for name in Open._fields)
    return [Open(*row) for row in connection.execute(select(*columns).where(bundles.c.endpoint_no == no))]


def _epoch_is(connection: Connection, no: int, epoch: int) -> Any:
    return connection.execute(select(endpoints.c.epoch).where(endpoints.c.no == no)).scalar() == epoch
