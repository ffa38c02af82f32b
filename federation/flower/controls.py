"""What Flower's buttons do, when the person who runs the service lets them: Celery's controls, by endpoint.

Every endpoint hears control commands below its own key prefix only, so a command must be sent to the one it
is meant for. The ledger says which that is: worker nodes have signed what it knows of them, while the name in
a Celery event may be anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery.app.control import Control
from sqlalchemy import and_, or_, select

from ..broker.client import mailbox
from ..db.engine import Database
from ..db.tables import bundles, endpoints, nodes


class NoSuchWorker(LookupError):
    """No endpoint, or more than one, has the worker or the message that a command is meant for."""


class Places:
    """Which endpoint a Celery worker or message belongs to, read from the ledger."""

    def __init__(self, database: Database):
        self._database = database

    def of_worker(self, hostname: str) -> str:
        """Id of the endpoint of the worker ``worker@ENDPOINT.NODE``. Raises NoSuchWorker."""
        rest = hostname.partition("@")[2]
        # both parts may hold dots
        splits = [(rest[:at], rest[at + 1 :]) for at, mark in enumerate(rest) if mark == "."]
        match = or_(*(and_(endpoints.c.name == name, nodes.c.name == node) for name, node in splits))
        query = (
            select(endpoints.c.id)
            .join(nodes, nodes.c.endpoint_no == endpoints.c.no)
            .where(match if splits else endpoints.c.no.is_(None), endpoints.c.deleted.is_(None))
        )
        return self._only(query, f"worker '{hostname}'")

    def of_message(self, bundle_id: str) -> str:
        """Id of the endpoint that a bundle was sent to and has not ended. Raises NoSuchWorker."""
        query = select(endpoints.c.id).join(bundles, bundles.c.endpoint_no == endpoints.c.no)
        return self._only(query.where(bundles.c.id == bundle_id), f"open message '{bundle_id}'")

    def _only(self, query: Any, what: str) -> str:
        with self._database.read() as connection:
            found = sorted(set(connection.execute(query).scalars()))
        if len(found) != 1:
            raise NoSuchWorker(
                f"{len(found)} endpoints have the {what}, so nothing was sent; reload the page."
            )
        return str(found[0])


class EndpointControl(Control):
    """Celery's control client that speaks to each worker below the prefix of its endpoint."""

    #: Set by ``monitor`` on the app's own instance.
    places: Places

    def broadcast(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        reply: bool = False,
        timeout: float = 1.0,
        **more: Any,
    ) -> list[Any] | None:
        """Send ``command`` to the workers ``destination``, or, for a message's id, to its endpoint.

        Returns their answers when ``reply``. What is meant for all workers of all endpoints is sent to
        nobody: Celery asks so for a sign of life when it begins to listen. Raises NoSuchWorker.
        """
        known = ("connection", "limit", "callback", "channel", "pattern", "matcher")
        arguments = {**(arguments or {}), **{key: more[key] for key in more if key not in known}}
        answers: list[Any] = []
        for endpoint_id, workers in self._addresses(arguments, destination).items():
            with mailbox(self.app.conf.broker_url, endpoint_id) as box:
                if reply and workers:
                    answers += box.call(workers, command, arguments, timeout=timeout) or []
                else:
                    box.cast(workers, command, arguments)
        return answers if reply else None

    def _addresses(
        self, arguments: dict[str, Any], destination: Sequence[str] | None
    ) -> dict[str, list[str] | None]:
        """Workers by endpoint; None: all of that endpoint."""
        if destination is None:
            if "task_id" not in arguments:
                return {}
            return {self.places.of_message(str(arguments["task_id"])): None}
        found: dict[str, list[str]] = {}
        for worker in destination:
            found.setdefault(self.places.of_worker(worker), []).append(worker)
        return dict(found)
