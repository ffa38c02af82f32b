"""The tables of the registry, the ledger and the provisioner.

Rows are joined by small integers (``no``); ids that people and programs see are text. Times are seconds
since 1970, UTC. Payloads of a whole submission, and results of a whole report, are one row of ``blobs``
each; tasks point into it, so ten thousand calls cost one blob.
"""

from .base import metadata
from .ledger import (
    blobs,
    bundles,
    estimates,
    groups,
    idempotency,
    items,
    loads,
    logs,
    samples,
    streams,
    submissions,
    tasks,
)
from .registry import endpoints, functions, nodes, tokens, users
from .sites import blocks, sites

__all__ = [
    "blobs",
    "blocks",
    "bundles",
    "endpoints",
    "estimates",
    "functions",
    "groups",
    "idempotency",
    "items",
    "loads",
    "logs",
    "metadata",
    "nodes",
    "samples",
    "sites",
    "streams",
    "submissions",
    "tasks",
    "tokens",
    "users",
]
