"""The systems that are measured, by name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from .base import Peer


@dataclass(frozen=True)
class Entry:
    """The adapter of a system ("module:Class" in this package) and the requirements of its environment.

    Without ``requirements`` it runs in the environment of the project.
    """

    adapter: str
    requirements: tuple[str, ...] = ()


_NUMPY = "numpy==2.4.6"
_REDIS = ("redis==8.1.0", "hiredis==3.5.0")

PEERS = {
    "umbel": Entry("umbel_service:UmbelService"),
    "umbel-postgresql": Entry("umbel_postgresql:OneAndOne"),
    "umbel-postgresql-2": Entry("umbel_postgresql:TwoAndTwo"),
    "celery": Entry("celery_redis:CeleryRedis", ("celery[redis]==5.7.0", *_REDIS)),
    "parsl": Entry("parsl_htex:ParslHtex", ("parsl==2026.10.26", _NUMPY)),
    "dask": Entry("dask_cluster:DaskCluster", ("distributed==2026.8.0", _NUMPY)),
    "dramatiq": Entry("dramatiq_redis:DramatiqRedis", ("dramatiq[redis]==2.2.1", *_REDIS)),
}


def adapter(name: str) -> type[Peer]:
    """Load the adapter of a system. Raises ImportError if the system is not installed."""
    module, _, cls = PEERS[name].adapter.partition(":")
    found: type[Peer] = getattr(importlib.import_module(f"{__name__}.{module}"), cls)
    return found
