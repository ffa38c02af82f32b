"""Chooses the route by which a worker reaches the broker: the first one that works."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

from umbel.protocol.errors import UmbelError

from .client import BROKER_ERRORS, at_address, connect

log = logging.getLogger(__name__)

#: Seconds to wait for one route, between two rounds, and in total.
TIMEOUT, PAUSE, PATIENCE = 3.0, 2.0, 90.0


class NoRoute(UmbelError):
    """The broker cannot be reached from this machine."""

    default_code = "UNAVAILABLE"


class Route(NamedTuple):
    """A route to the broker. ``address``: ``host:port``, or "" for the registered address."""

    name: str
    address: str

    @classmethod
    def parse(cls, text: str) -> Route:
        """Parse ``NAME=HOST:PORT``."""
        name, _, address = text.partition("=")
        return cls(name, address)

    def __str__(self) -> str:
        return f"{self.name}={self.address}"


def choose(url: str, routes: Sequence[Route], patience: float = PATIENCE) -> Route:
    """Return the first route by which the broker accepts the account of ``url``.

    Routes are tried in order, repeatedly for ``patience`` seconds: a relay or tunnel may be restarting.
    Raises NoRoute with the error of each route.
    """
    deadline = time.monotonic() + patience
    while True:
        errors = {}
        for route in routes:
            error = _try(url, route)
            if error is None:
                log.info(
                    "broker reached by route %s, address %s", route.name, route.address or "as registered"
                )
                return route
            errors[str(route)] = error
        if time.monotonic() >= deadline:
            tries = "; ".join(f"{route}: {error}" for route, error in errors.items())
            raise NoRoute(
                f"the broker cannot be reached from this machine by any of {len(routes)} routes: {tries}"
            )
        time.sleep(PAUSE)


def _try(url: str, route: Route) -> str | None:
    """Return None if the route works, else the error."""
    try:
        # log in: a listening port alone proves nothing
        with connect(at_address(url, route.address) if route.address else url, timeout=TIMEOUT) as client:
            client.ping()
        return None
    except BROKER_ERRORS as error:
        return str(error)[:200]
    except ValueError as error:
        return f"invalid address: {error}"
