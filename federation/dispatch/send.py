"""Sends planned bundles, after their transaction is committed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from umbel.protocol.messages import Bundle, Call, FunctionRef

from ..broker.client import BrokerError, Outgoing
from ..context import Federation
from ..db import shared
from ..db.errors import RETRYABLE
from ..db.options import Options
from .refill import PlannedBundle

log = logging.getLogger(__name__)


def send(fed: Federation, planned: Sequence[PlannedBundle], blobs: Mapping[int, bytes] | None = None) -> None:
    """Seal and send bundles. ``blobs``: blobs already in memory, by number; others are read.

    If the broker is unreachable, nothing is lost and nothing is raised: the ledger records the bundles as
    sent, and the sweeper sends bundles again that are in no queue and on no node.
    """
    if not planned:
        return
    try:
        all_blobs = _blobs(fed, planned, blobs or {})
        fed.broker.send([_outgoing(fed, plan, all_blobs) for plan in planned])
    except (*BrokerError, *RETRYABLE) as error:
        log.warning(
            "broker or database unavailable; %d bundles will be sent again later: %s", len(planned), error
        )


def _blobs(
    fed: Federation, planned: Sequence[PlannedBundle], known: Mapping[int, bytes]
) -> Mapping[int, bytes]:
    missing = {call[2] for plan in planned for call in plan.calls}.difference(known)
    if not missing:
        return known
    with fed.database.read() as connection:
        return {**known, **shared.read_blobs(connection, missing)}


def _outgoing(fed: Federation, plan: PlannedBundle, blobs: Mapping[int, bytes]) -> Outgoing:
    function = fed.functions.get(plan.function_no)
    parts: list[bytes] = []
    # the key includes the length: empty arguments share the offset of the arguments after them
    placed: dict[tuple[int, int, int], int] = {}
    size = 0
    calls = []
    for task_id, attempt, blob_no, offset, length in plan.calls:
        at = placed.get((blob_no, offset, length))
        if at is None:
            at = placed[blob_no, offset, length] = size
            parts.append(blobs[blob_no][offset : offset + length])
            size += length
        calls.append(Call(task_id, attempt, at, length))
    bundle = Bundle(
        id=plan.bundle_id,
        endpoint=plan.endpoint_id,
        function=FunctionRef(function.id, function.name, function.sha256, len(function.body)),
        calls=calls,
        options=Options.from_json(plan.options).run.tightened(function.limits),
        user=plan.user,
        body=b"".join(parts),
        # only long run times matter to workers
        seconds=round(plan.seconds, 1) if plan.seconds > 1.0 else 0.0,
        passes=plan.passes,
    )
    head, body = bundle.seal(fed.signer, fed.clock())
    return Outgoing(
        endpoint_id=plan.endpoint_id,
        bundle_id=plan.bundle_id,
        head=head,
        body=body,
        function_name=function.name,
        function_sha256=function.sha256,
        function_body=function.body,
        calls=len(calls),
        epoch=plan.epoch,
        passes=plan.passes,
    )
