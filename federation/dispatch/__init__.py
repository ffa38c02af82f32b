"""Dispatch: groups queued calls into bundles and sends them to endpoints.

In: queued calls in the ledger and the free room in an endpoint's window. Out: bundles that are recorded in
the ledger, signed, and sent through the broker.
"""

from .refill import PlannedBundle, endpoints_to_refill, refill
from .send import send

__all__ = ["PlannedBundle", "refill", "send", "endpoints_to_refill"]
