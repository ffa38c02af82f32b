"""By which way a worker reaches the broker: the first of some that works from where it runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

from umbel.protocol.errors import UmbelError

from .client import BROKER_ERRORS, at_address, connect

log = logging.getLogger(__name__)

#: Seconds that one way may take to answer, between two rounds, and in all.
TIMEOUT, PAUSE, PATIENCE = 3.0, 2.0, 90.0


class NoRoute(UmbelError):
    """The broker cannot be reached from this machine."""

    default_code = "UNAVAILABLE"


class Route(NamedTuple):
    """A way to the broker. ``address``: ``host:port``; "": the one that the endpoint is registered with."""

    name: str
    address: str

    @classmethod
    def parse(cls, text: str) -> Route:
        """Read ``NAME=HOST:PORT``."""
        name, _, address = text.partition("=")
        return cls(name, address)

    def __str__(self) -> str:
        return f"{self.name}={self.address}"


def choose(url: str, routes: Sequence[Route], patience: float = PATIENCE) -> Route:
    """The first way by which the broker itself answers with the account of ``url``.

    Tried in order, again and again for ``patience`` seconds: a relay or tunnel may just be coming back.
    Raises NoRoute with what each of them said.
    """
    deadline = time.monotonic() + patience
    while True:
        errors = {}
        for route in routes:
            error = _try(url, route)
            if error is None:
                log.info("the broker is reached by %s %s", route.name, route.address or "(its own address)")
                return route
            errors[str(route)] = error
        if time.monotonic() >= deadline:
            tries = "; ".join(f"{route}: {error}" for route, error in errors.items())
            raise NoRoute(f"this machine does not reach the broker by any of {len(routes)} ways: {tries}")
        time.sleep(PAUSE)


def _try(url: str, route: Route) -> str | None:
    """None if the way works, else what is wrong with it."""
    try:
        # not only that somebody listens there: the account has to be known
        with connect(at_address(url, route.address) if route.address else url, timeout=TIMEOUT) as client:
            client.ping()
        return None
    except BROKER_ERRORS as error:
        return str(error)[:200]
    except ValueError as error:
        return f"no address: {error}"
