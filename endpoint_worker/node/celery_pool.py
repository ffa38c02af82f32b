"""The Celery pool: the interface between Celery and the node's supervisor.

A message is accepted (acknowledged, and Celery fetches the next one) only when a slot takes its bundle.
Celery's prefetch therefore bounds the bundles of a node: per slot one that runs and one that waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery.concurrency.base import BasePool

from .node import Node


class Token(int):
    """Celery's identifier of a running bundle: the runner's process id, with the bundle's id attached."""

    bundle: str

    def __new__(cls, pid: int, bundle: str) -> Token:
        """Create a token for ``bundle`` in process ``pid``."""
        token = super().__new__(cls, pid)
        token.bundle = bundle
        return token


class CallsFailed(Exception):
    """Calls of a bundle have failed. Celery and Flower show it as the failure of the bundle's message."""


@dataclass(frozen=True)
class Failure:
    """What Celery expects of a failed message. Tracebacks of users' functions are not for it."""

    exception: CallsFailed
    traceback: str = ""


class CeleryPool(BasePool):
    """Celery's view of the runners; its app has the node as attribute ``umbel_node``."""

    body_can_be_buffer = True

    @property
    def node(self) -> Node:
        """The node that owns the runners."""
        return self.app.umbel_node

    def on_start(self) -> None:
        """Start the node's threads."""
        self.node.start()

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Any = (),
        kwargs: Any = None,
        callback: Callable[[Any], None] | None = None,
        accept_callback: Callable[[int, float], None] | None = None,
        **options: Any,
    ) -> None:
        """Receive a message. ``target`` would run it in this process and is not called."""
        began = time.monotonic()

        def accept(bundle: str, pid: int) -> None:
            if accept_callback is not None:
                accept_callback(Token(pid, bundle), time.monotonic())

        def done(failure: str) -> None:
            if callback is not None:
                result = Failure(CallsFailed(failure)) if failure else None
                callback((bool(failure), result, time.monotonic() - began))

        body = args[3]
        self.node.receive(bytes(body) if isinstance(body, memoryview) else body, accept, done)

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """Stop a bundle's calls (Celery's ``revoke`` with ``terminate``); they end as cancelled."""
        if isinstance(pid, Token):
            self.node.supervisor.cancel_bundle(pid.bundle)

    def on_stop(self) -> None:
        """Warm shutdown: running calls get the endpoint's ``drain_seconds``, all others are returned."""
        self.node.close()

    def on_terminate(self) -> None:
        """Cold shutdown: stop running calls at once."""
        self.node.drain(at_once=True)
        self.node.close()

    def grow(self, n: int = 1) -> None:
        """Add slots."""
        self.node.supervisor.resize(n)

    def shrink(self, n: int = 1) -> None:
        """Remove slots, each at the end of its bundle."""
        self.node.supervisor.resize(-n)

    def restart(self) -> None:
        """Replace all runners, each at the end of its bundle."""
        self.node.supervisor.replace_all()

    @property
    def num_processes(self) -> int:
        """Number of slots."""
        return self.node.supervisor.slots

    def _get_info(self) -> dict[str, Any]:
        supervisor = self.node.supervisor
        return {
            **super()._get_info(),
            "max-concurrency": supervisor.slots,
            "busy": supervisor.busy,
            "waiting": supervisor.waiting,
        }
