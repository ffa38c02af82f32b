"""The tables of the registry, the ledger and the provisioner.

In: column definitions, shared helpers in ``base``. Out: one SQLAlchemy ``MetaData`` with all tables and
indexes, which the statements use and the migrations must produce.

Rows are joined by integers (``no``); ids that users and programs see are strings. Times are seconds since
1970, UTC. All payloads of a submission, or all results of a report, share few rows of ``blobs``, and tasks
refer to a range in one of them: 10,000 small calls cost one blob.
"""

from .base import metadata
from .ledger import (
    arrivals,
    blobs,
    bundles,
    epochs,
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
    "arrivals",
    "blobs",
    "blocks",
    "bundles",
    "endpoints",
    "epochs",
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
