"""Creates and starts the Celery worker of an endpoint."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from typing import Any

from celery import Celery, bootsteps, signals
from celery.worker.control import control_command
from celery.worker.request import Request

from umbel.protocol import names
from umbel.system.memory import collect_less_often
from umbel.system.redis import connection_options

from ..broker.celery_transport import Connection, NodeLink
from ..broker.client import without_password
from .node import Node
from .shutdown import ShutdownConditions, ShutdownMonitor

log = logging.getLogger(__name__)

#: Seconds after the end of the drain at which a worker that has not stopped is terminated.
FORCE_AFTER = 12.0
#: Seconds between two looks whether the node may fetch messages, until it may.
GATE_INTERVAL = 0.02
#: Celery events (for Flower) are sent in batches at this interval (seconds), or at this number of events.
EVENTS_INTERVAL, EVENTS_AT_ONCE = 0.25, 1000


class OnConnect(bootsteps.StartStopStep):
    """Runs each time Celery has connected to the broker.

    The node catches up on what it missed. Events are sent in batches a few times per second: by default
    Celery sends them after every message, which takes longer than all other work of the main thread for that
    message.
    """

    requires = {"celery.worker.consumer.tasks:Tasks", "celery.worker.consumer.events:Events"}

    def __init__(self, c: Any, **options: Any):
        self._timers: list[Any] = []
        super().__init__(c, **options)

    def start(self, c: Any) -> None:
        """Called when Celery starts or resumes consuming."""
        c.event_dispatcher.on_send_buffered = None
        c.event_dispatcher.buffer_limit = EVENTS_AT_ONCE
        self._timers = [c.timer.call_repeatedly(EVENTS_INTERVAL, c._flush_events)]
        if not c.app.umbel_node.outbox.fetches.allowed:
            self._timers.append(c.timer.call_repeatedly(GATE_INTERVAL, self._look, (c,)))
        c.on_consuming()
        c.app.umbel_node.on_connected()
        c.app.umbel_shutdown.attach(c)

    def stop(self, c: Any) -> None:
        """Called when the connection is lost or closed."""
        while self._timers:
            self._timers.pop().cancel()
        # a message that is on its way is received before the node looks what is left in its list
        channel = getattr(c.task_consumer, "channel", None)
        if channel is not None:
            channel.settle()

    def _look(self, c: Any) -> None:
        """Wake the event loop, which starts to fetch messages as soon as it may."""
        if c.app.umbel_node.outbox.fetches.allowed and len(self._timers) > 1:
            self._timers.pop().cancel()


@control_command(name=names.CANCEL_COMMAND, args=[("task_ids", list)], signature="<task ids>")
def cancel_calls(state: Any, task_ids: list[str] | None = None, **_: Any) -> dict[str, int]:
    """Remote-control command: skip or stop calls of this endpoint."""
    wanted = [str(task_id) for task_id in task_ids or []]
    state.app.umbel_node.cancel(wanted)
    return {"ok": len(wanted)}


@control_command(name=names.LEAVE_COMMAND, args=[("reason", str)], signature="<reason>")
def shut_down(state: Any, reason: str = "", **_: Any) -> dict[str, str]:
    """Remote-control command: accept no more bundles, finish accepted ones, and exit."""
    state.app.umbel_shutdown.shut_down(str(reason)[:200] or "requested by the service")
    return {"ok": "leaving"}


class BundleRequest(Request):
    """A bundle as seen by Celery."""

    def cancel(self, *_: Any, **__: Any) -> None:
        """Do nothing: Celery cancels requests in a cold shutdown, but the node stops them itself."""


def make_app(node: Node, monitor: ShutdownMonitor | None = None) -> Celery:
    """Return the Celery app of one endpoint, whose only task is ``names.RUN_TASK``."""
    app = Celery("umbel-endpoint", broker=node.broker_url, set_as_current=False)
    app.conf.update(_configuration(node))
    app.amqp.Connection = Connection
    app.umbel_node, app.umbel_shutdown = node, monitor or ShutdownMonitor(node, ShutdownConditions())
    app.steps["consumer"].add(OnConnect)

    @app.task(name=names.RUN_TASK, ignore_result=True, Request=BundleRequest)
    def run(head: str, body: str | None) -> None:
        raise RuntimeError("bundles run in the endpoint's own pool, not as Celery tasks")

    return app


def _configuration(node: Node) -> dict[str, Any]:
    return dict(
        broker_transport="endpoint_worker.broker.celery_transport:Transport",
        broker_transport_options={
            "global_keyprefix": names.prefix(node.endpoint),
            "node": NodeLink(node.outbox.fetches, node.client.connection_pool),
            "ack_emulation": False,
            "priority_steps": [0],
            **connection_options(10.0),
            "health_check_interval": 10,
        },
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # the node's answer to any error of the broker is to connect again
        broker_channel_error_retry=True,
        worker_consumer="endpoint_worker.broker.celery_transport:Consumer",
        result_backend=None,
        task_default_queue=names.QUEUE,
        task_ignore_result=True,
        task_acks_late=False,
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_pool_restarts=True,
        # a message that Celery delays is in no list of the broker, and no bundle of the node
        worker_disable_rate_limits=True,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=0.0,
        control_queue_expires=None,
        event_queue_expires=None,
    )


def serve(node: Node, conditions: ShutdownConditions | None = None) -> int:
    """Run the node's Celery worker until it is stopped or its conditions end it; return an exit code."""
    # with Python's default of 5 ms, a message would wait while another thread computes
    sys.setswitchinterval(0.0002)
    # Celery warns about root, future settings and every lost connection; important events are logged anyway
    warnings.filterwarnings("ignore", module=r"celery\.")
    monitor = ShutdownMonitor(node, conditions or ShutdownConditions())
    app = make_app(node, monitor)
    monitor.start()
    signals.setup_logging.connect(_logging_is_set_up)
    stopping = _Stopping(node)
    signals.worker_shutting_down.connect(stopping)
    signals.worker_ready.connect(_hang_up_is_stop)
    host = node.name.replace("@", "-")
    log.info(
        "endpoint %s: node %s, %d slots, broker %s, process %d",
        node.settings.name,
        node.name,
        node.settings.worker_slots,
        without_password(node.broker_url),
        os.getpid(),
    )
    worker = app.Worker(
        hostname=f"worker@{node.settings.name}.{host}",
        pool="endpoint_worker.node.celery_pool:CeleryPool",
        concurrency=node.settings.worker_slots,
        queues=[names.QUEUE],
        loglevel=node.settings.log_level,
        without_gossip=True,
        without_mingle=True,
        task_events=True,
        quiet=True,
    )
    collect_less_often()
    worker.start()
    return int(worker.exitcode or 0)


class _Stopping:
    """Starts the drain as soon as a signal requests it, whatever Celery's main thread is doing."""

    def __init__(self, node: Node):
        self._node = node

    def __call__(self, *, how: str = "Warm", **_: Any) -> None:
        self._node.drain(at_once=how != "Warm")
        force = threading.Timer(self._node.settings.drain_seconds + FORCE_AFTER, _force)
        force.daemon = True
        force.start()


def _force() -> None:
    log.critical("the worker did not stop in time and is terminated; unsent reports remain in the spool")
    os._exit(1)


def _hang_up_is_stop(**_: Any) -> None:
    """Let SIGHUP stop the worker; Celery would restart it with its own command line."""
    signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))


def _logging_is_set_up(**_: Any) -> None:
    """Keep Celery from configuring logging: the command has done so."""
