"""Dispatch: groups queued calls into bundles and sends them to endpoints.

In: queued calls in the ledger and the free room in an endpoint's window. Out: bundles that are recorded in
the ledger, signed, and sent through the broker.
"""

from .catch_up import after_commit, catch_up, endpoints_to_refill, refill_if_free
from .refill import PlannedBundle, refill

__all__ = ["PlannedBundle", "refill", "after_commit", "endpoints_to_refill", "catch_up", "refill_if_free"]
