"""Which outcomes share a report."""

from __future__ import annotations

from umbel.protocol.limits import MAX_OUTCOMES
from umbel.protocol.messages import Outcome, Status

#: A report is closed when its payloads, logs and items reach this many bytes (a single larger outcome gets a
#: report of its own).
REPORT_BYTES = 2 * 1024 * 1024


def divide(items: list[tuple[str, list[Outcome]]]) -> list[dict[str, list[Outcome]]]:
    """Divide outcomes, each list with the id of its bundle, into reports of about REPORT_BYTES."""
    found: list[dict[str, list[Outcome]]] = []
    size, count = REPORT_BYTES, 0
    for bundle_id, outcomes in items:
        for outcome in outcomes:
            if size >= REPORT_BYTES or count >= MAX_OUTCOMES // 2:
                found.append({})
                size = count = 0
            count += 1
            found[-1].setdefault(bundle_id, []).append(outcome)
            size += len(outcome.payload)
            if outcome.log is not None:
                size += len(outcome.log.head) + len(outcome.log.tail)
            if outcome.items is not None:
                size += sum(map(len, outcome.items.items))
    return found


def lost(batch: dict[str, list[Outcome]], error: Exception) -> dict[str, list[Outcome]]:
    """Return outcomes instead of those that cannot be written."""
    message = f"the endpoint could not report the outcome: {error!r}"[:300]
    return {
        bundle: [
            Outcome(outcome.task_id, outcome.attempt, Status.LOST, message=message)
            for outcome in outcomes
            if outcome.status != Status.RUNNING
        ]
        for bundle, outcomes in batch.items()
    }


def shifted(batch: dict[str, list[Outcome]], offset: float) -> dict[str, list[Outcome]]:
    """Return outcomes with ``offset`` seconds added to their dates."""
    return {
        bundle: [o._replace(started=o.started + offset) if o.started else o for o in outcomes]
        for bundle, outcomes in batch.items()
    }
