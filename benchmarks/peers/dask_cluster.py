"""Dask's LocalCluster: scheduler in the client's process, two worker processes with one thread each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dask.distributed import Client, LocalCluster

from benchmarks.functions import BY_NAME
from benchmarks.works import SLOTS

from .base import Peer


class DaskCluster(Peer):
    """The client uses ``Client.map`` with ``pure=False``, so that no result is cached."""

    packages = ("distributed", "dask")
    roles = (("spawn_main", "worker"), ("resource_tracker", "helper"))

    def start(self) -> None:
        """Start cluster and client."""
        self._cluster = LocalCluster(
            n_workers=SLOTS, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None,
            local_directory=str(self.folder),
        )  # fmt: skip
        self._client = Client(self._cluster)

    def run(self, function: str, items: Sequence[Any]) -> list[Any]:
        """Map and gather."""
        if len(items) == 1:
            return [self._client.submit(BY_NAME[function], items[0], pure=False).result()]
        return list(self._client.gather(self._client.map(BY_NAME[function], items, pure=False)))

    def stop(self) -> None:
        """Stop client, then cluster."""
        self._client.close()
        self._cluster.close()
