"""The systems that are measured, by name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from .base import Peer


@dataclass(frozen=True)
class Entry:
    """Where a system's adapter lives ("module:Class" in this package) and what its environment needs.

    Without ``requirements`` it runs in the project's own environment.
    """

    adapter: str
    requirements: tuple[str, ...] = ()


_REDIS = ("redis==8.1.0", "hiredis==3.5.0")

PEERS = {
    "umbel": Entry("umbel_service:UmbelService"),
    "celery": Entry("celery_redis:CeleryRedis", ("celery[redis]==5.7.0", *_REDIS)),
    "parsl": Entry("parsl_htex:ParslHtex", ("parsl==2026.10.26",)),
    "dask": Entry("dask_cluster:DaskCluster", ("distributed==2026.8.0",)),
    "dramatiq": Entry("dramatiq_redis:DramatiqRedis", ("dramatiq[redis]==2.2.1", *_REDIS)),
}


def adapter(name: str) -> type[Peer]:
    """Load the adapter of a system. Raises ImportError when its environment lacks the system."""
    module, _, cls = PEERS[name].adapter.partition(":")
    found: type[Peer] = getattr(importlib.import_module(f"{__name__}.{module}"), cls)
    return found
