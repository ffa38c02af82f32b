"""Opens what lies in the endpoints' lists of reports; nothing of it is used before it is verified.

The key to verify with is the one of the list's own endpoint. Whatever is wrong with a report rejects this
report only: it is counted and the beginning of it is kept (``broker.dead_letters``).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from umbel.protocol import names
from umbel.protocol.errors import ProtocolError
from umbel.protocol.limits import MAX_REPORT_BYTES
from umbel.protocol.messages import OpenReport, Report
from umbel.protocol.pointer import Pointer, read_pointer

from ..broker.dead_letters import Rejection
from ..broker.report_lists import READ_BYTES, Unread, is_wrong_type
from ..context import Federation
from .endpoint_keys import EndpointKeys

log = logging.getLogger(__name__)

#: Number of outcomes that one transaction applies, about: 50 ms, for which all other writers wait.
BATCH_OUTCOMES = 2048
#: Minimum time between two log lines about rejected reports of one endpoint, seconds.
LOG_INTERVAL = 10.0


@dataclass
class Batch:
    """Reports of one endpoint, oldest first; None stands for one that was rejected.

    ``keys``: for each of them, the key that it lies under if it is a large one. ``count``: how many of them
    need not be read again.
    """

    unread: Unread
    opened: list[OpenReport | None] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    count: int = 0

    @property
    def reports(self) -> list[OpenReport]:
        """The reports that were not rejected."""
        return [report for report in self.opened if report is not None]

    @property
    def done_keys(self) -> list[str]:
        """The keys of large reports that need not be read again."""
        return [key for key in self.keys[: self.count] if key is not None]

    def reject(self, reason: str, data: bytes | int) -> None:
        """Note that a report is rejected."""
        self.rejections.append(Rejection(self.unread.endpoint_id, reason, data))


class ReportReader:
    """Opens reports with the public keys of the registry."""

    def __init__(self, fed: Federation, keys: EndpointKeys):
        self._fed, self._keys = fed, keys
        self._logged: dict[str, float] = {}
        self._unlogged: Counter[str] = Counter()

    def known(self, endpoint_id: str) -> bool:
        """Return whether an endpoint of this id is registered."""
        return self._keys.find(endpoint_id) is not None

    def open(self, unread: Unread, most: int = BATCH_OUTCOMES) -> Batch:
        """Open the reports of one endpoint; some may be left for the next time if they are large.

        ``most``: number of outcomes after which the rest is left.
        """
        batch = Batch(unread)
        if unread.fault is not None:
            batch.reject(unread.fault, 0)
        size = outcomes = 0
        for raw in unread.reports:
            if outcomes >= most:
                break
            key = None
            try:
                data = _small(raw)
                if (pointer := read_pointer(data)) is not None:
                    key = names.parts_key(unread.endpoint_id, pointer.report)
                    data = self._parts(key, pointer)
                size += len(data)
                if size > READ_BYTES and batch.opened:
                    break
                report = self._open(unread.endpoint_id, data)
                outcomes += len(report.rows)
            except ProtocolError as error:
                batch.reject(error.message, raw)
                report = None
            batch.opened.append(report)
            batch.keys.append(key)
        return batch

    def reject(self, batches: Sequence[Batch]) -> int:
        """Keep and log the rejected reports of these batches; return how many there are."""
        rejections = [each for batch in batches for each in batch.rejections]
        self._fed.broker.dead_letters.add(rejections)
        for each in rejections:
            self._log(each)
        return len(rejections)

    def _open(self, endpoint_id: str, data: bytes) -> OpenReport:
        key = self._keys.find(endpoint_id)
        if key is None:
            raise ProtocolError("the endpoint is not registered")
        return Report.open(key.verifier, data, endpoint=endpoint_id)

    def _parts(self, key: str, pointer: Pointer) -> bytes:
        """Return the bytes of a large report. Raises ProtocolError."""
        client: Any = self._fed.broker.redis
        try:
            found = int(client.strlen(key))
            data: bytes | None = client.get(key) if found == pointer.size else None
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            raise ProtocolError("the key of a large report is not a string") from None
        if data is None or len(data) != pointer.size:
            raise ProtocolError(f"{found} of the {pointer.size} bytes of a large report are there")
        return data

    def _log(self, rejection: Rejection) -> None:
        """Log a rejected report, at most one per endpoint and ``LOG_INTERVAL``."""
        endpoint_id, now = rejection.endpoint_id, time.monotonic()
        if now - self._logged.get(endpoint_id, -LOG_INTERVAL) < LOG_INTERVAL:
            self._unlogged[endpoint_id] += 1
            return
        self._logged[endpoint_id] = now
        more = self._unlogged.pop(endpoint_id, 0)
        size = rejection.data if isinstance(rejection.data, int) else len(rejection.data)
        log.warning(
            "endpoint %s: invalid report of %d bytes rejected: %s (%d others before)",
            endpoint_id,
            size,
            rejection.reason,
            more,
        )


def _small(raw: bytes | int) -> bytes:
    """Return the bytes of a report or a pointer. Raises ProtocolError if there is only a size."""
    if isinstance(raw, int):
        raise ProtocolError(f"the report has {raw} bytes; the limit is {MAX_REPORT_BYTES}")
    return raw
