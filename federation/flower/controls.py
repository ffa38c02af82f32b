"""Celery control commands for Flower's buttons, routed by endpoint.

Workers receive control commands under the key prefix of their endpoint only, so each command must be sent to
the right endpoint. The endpoint is looked up in the ledger, whose data about nodes is signed; the name in a
Celery event is not trustworthy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery.app.control import Control
from sqlalchemy import and_, false, or_, select

from umbel.protocol import names

from ..broker.client import mailbox
from ..db.engine import Database
from ..db.tables import bundles, endpoints, nodes
from .events import NAME_LENGTH


class NoSuchWorker(LookupError):
    """The target worker or message of a command belongs to no endpoint, or to more than one."""


class EndpointLookup:
    """Finds the endpoint of a Celery worker or message in the ledger."""

    def __init__(self, database: Database):
        self._database = database

    def of_worker(self, hostname: str) -> str:
        """Return the id of the endpoint of worker ``worker@ENDPOINT.NODE``. Raises NoSuchWorker."""
        rest = hostname.partition("@")[2] if _is_name(hostname) else ""
        # both parts may contain dots
        splits = [(rest[:at], rest[at + 1 :]) for at, mark in enumerate(rest) if mark == "."]
        match = or_(false(), *(and_(endpoints.c.name == name, nodes.c.name == node) for name, node in splits))
        query = (
            select(endpoints.c.id)
            .join(nodes, nodes.c.endpoint_no == endpoints.c.no)
            .where(match, endpoints.c.deleted.is_(None))
        )
        return self._only(query, f"worker '{str(hostname)[:300]}'")

    def of_message(self, bundle_id: str) -> str:
        """Return the id of the endpoint of an unfinished bundle. Raises NoSuchWorker."""
        query = select(endpoints.c.id).join(bundles, bundles.c.endpoint_no == endpoints.c.no)
        query = query.where(bundles.c.id == (bundle_id if names.is_id(bundle_id) else ""))
        return self._only(query, f"open message '{bundle_id[:80]}'")

    def _only(self, query: Any, what: str) -> str:
        with self._database.read() as connection:
            found = sorted(set(connection.execute(query).scalars()))
        if len(found) != 1:
            raise NoSuchWorker(
                f"The {what} belongs to {len(found)} endpoints; nothing was sent. Reload the page."
            )
        return str(found[0])


def _is_name(hostname: object) -> bool:
    """Return whether this can be the name of a worker; names come from events."""
    return isinstance(hostname, str) and len(hostname) <= NAME_LENGTH and hostname.isprintable()


class EndpointControl(Control):
    """A Celery control client that sends commands under the key prefix of each worker's endpoint."""

    #: Set by ``flower.main`` on the app's instance.
    lookup: EndpointLookup

    def broadcast(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        reply: bool = False,
        timeout: float = 1.0,
        **more: Any,
    ) -> list[Any] | None:
        """Send ``command`` to the workers in ``destination``, or to the endpoint of the message ``task_id``.

        Returns the replies if ``reply``. A command for all workers of all endpoints is not sent; Celery
        sends one at startup to discover workers. Raises NoSuchWorker.
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
        """Return workers by endpoint; None: all workers of that endpoint."""
        if destination is None:
            if "task_id" not in arguments:
                return {}
            return {self.lookup.of_message(str(arguments["task_id"])): None}
        found: dict[str, list[str]] = {}
        for worker in destination:
            found.setdefault(self.lookup.of_worker(worker), []).append(worker)
        return dict(found)
