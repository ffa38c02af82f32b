"""Notices that the ledger was rolled back: by a restored backup, or by a disk that lost its last writes.

The ledger's mark grows while the ledger changes. It is remembered in the broker and in a file of the home; if
the ledger's own mark is smaller, the ledger is an earlier state of itself.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

from sqlalchemy import select

from umbel.protocol import names
from umbel.system.files import write_private

from ..broker.client import BrokerError
from ..context import Federation
from ..db import shared
from ..db.tables import bundles
from ..ledger import epochs
from ..ledger.epochs import Mark
from ..registry import broker_accounts
from ..registry.endpoints import registered_ids

log = logging.getLogger(__name__)

#: Redis key and file in the home with the last mark: JSON [epoch, mark].
MARK_KEY = "umbel:ledger"
MARK_FILE = "ledger.mark"
#: Number of queues whose lengths are read at once.
BATCH = 100


class RollbackGuard:
    """Compares the ledger with the remembered marks, and remembers the new one."""

    def __init__(self, fed: Federation):
        self._fed = fed
        self._last: Mark | None = None
        self._activity: tuple[int, int] | None = None

    def check(self) -> bool:
        """Begin a new epoch if the ledger was rolled back; return whether it was."""
        # before the ledger is read: another sweeper may increase the mark in between
        remembered = list(self._remembered())
        with self._fed.database.read() as connection:
            mark = epochs.current_mark(connection)
            rolled_back = any(
                (
                    old.mark > mark.mark
                    if old.epoch == mark.epoch
                    else not epochs.is_known(connection, old.epoch)
                )
                for old in remembered
            )
            activity = epochs.activity(connection)
        if rolled_back:
            log.error(
                "the ledger is in an earlier state than before (mark %d, remembered: %s): a backup was "
                "restored, or the disk lost writes; dispatched calls are checked and may run again",
                mark.mark,
                ", ".join(str(old.mark) for old in remembered),
            )
            self._start_over()
        elif activity != self._activity or set(remembered) != {mark}:
            with self._fed.database.write() as connection:
                mark = epochs.advance(connection)
            self._remember(mark)
        self._activity = activity
        return rolled_back

    def _start_over(self) -> None:
        with self._fed.database.write() as connection:
            mark = epochs.start_new_epoch(connection, self._fed.clock())
        self._remember(mark)
        try:
            if broker_accounts.accounts_lost(self._fed):
                return  # a restarted broker is emptied before endpoints may connect
            broker_accounts.ensure_endpoint_users(self._fed)
            dropped = drop_unknown_bundles(self._fed)
        except BrokerError as error:
            log.warning("broker unreachable; its queues may contain bundles of the previous state: %s", error)
            return
        if dropped:
            log.warning("%d bundles that the ledger does not know are removed from the queues", dropped)

    def _remembered(self) -> Iterator[Mark]:
        """Return the marks that are remembered outside of the ledger."""
        texts: list[str | bytes | None] = []
        try:
            texts.append((self._fed.settings.home / MARK_FILE).read_text(encoding="utf-8"))
        except OSError:
            pass
        try:
            texts.append(self._fed.broker.redis.get(MARK_KEY))
        except BrokerError as error:
            log.debug("broker unreachable: %s", error)
        for text in texts:
            try:
                epoch, mark = json.loads(text or b"")
                yield Mark(str(epoch), int(mark))
            except (ValueError, TypeError):
                continue
        if self._last is not None:
            yield self._last

    def _remember(self, mark: Mark) -> None:
        """Remember a committed mark; it does not matter if one of the places cannot be written."""
        self._last = mark
        try:
            write_private(self._fed.settings.home / MARK_FILE, json.dumps(mark))
        except OSError as error:
            log.warning("cannot write %s: %s", MARK_FILE, error)
        try:
            self._fed.broker.redis.set(MARK_KEY, json.dumps(mark))
        except BrokerError as error:
            log.debug("broker unreachable: %s", error)


def drop_unknown_bundles(fed: Federation) -> int:
    """Remove the messages of bundles that the ledger does not know from all queues; return how many."""
    with fed.database.read() as connection:
        ids = registered_ids(connection)
    dropped = 0
    for start in range(0, len(ids), BATCH):
        some = ids[start : start + BATCH]
        pipe = fed.broker.redis.pipeline(transaction=False)
        for endpoint_id in some:
            pipe.llen(names.queue_key(endpoint_id))
        lengths = pipe.execute(raise_on_error=False)
        # a key that is not a list is an error of its endpoint only
        filled = [id for id, length in zip(some, lengths) if isinstance(length, int) and length]
        dropped += sum(_drop_unknown(fed, endpoint_id) for endpoint_id in filled)
    return dropped


def _drop_unknown(fed: Federation, endpoint_id: str) -> int:
    messages = fed.broker.queued_messages(endpoint_id)
    # after the queue was read: a bundle is committed before it is sent
    with fed.database.read() as connection:
        query = select(bundles.c.id).where(shared.among(connection, bundles.c.id, list(messages)))
        known = set(connection.execute(query).scalars())
    key = names.queue_key(endpoint_id)
    return sum(fed.broker.redis.lrem(key, 1, messages[id]) for id in messages.keys() - known)
