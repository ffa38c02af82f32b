"""The embedded web server: ``python -m webapp.serve --home DIR``.

Uses waitress: threads for requests and one loop for connections, so slow, idle or waiting clients occupy no
thread (see ``channel``, ``connections``, ``parking`` and ``admission``).
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask
from waitress import create_server
from waitress.server import BaseWSGIServer

from federation.broker.notifications import Notifier
from federation.config.settings import Settings, load
from federation.context import Federation
from federation.process import keep_memory, open_when_available
from umbel.protocol import limits
from umbel.protocol.errors import UmbelError
from umbel.system.memory import collect_less_often

from .admission import SPOOL_ABOVE
from .app import create_app
from .channel import Channel
from .connections import Front, most_connections, raise_file_limit

log = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: Seconds for requests to finish after a stop signal.
GRACE = 1.0


class _Stop(SystemExit):
    """Ends waitress's loop."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code (2: invalid settings or address)."""
    flags = _parser().parse_args(argv)
    try:
        keep_memory()
        settings = load(flags.home, host=flags.host, port=flags.port)
        logging.basicConfig(level=settings.log_level, format=LOG_FORMAT)
        raise_file_limit()
        fed = open_when_available(settings, threading.Event())
    except UmbelError as error:
        return _fail(error.message)
    except OSError as error:
        return _fail(f"{error.filename or flags.home}: {error.strerror or error}")
    assert fed is not None, "only a stop request ends the wait for the database"
    collect_less_often()
    try:
        return _serve(fed, settings)
    finally:
        fed.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m webapp.serve", description="Serve the REST API of a federation."
    )
    parser.add_argument(
        "--home", type=Path, help="directory of the service (default: $UMBEL_HOME or ~/.umbel)"
    )
    parser.add_argument("--host", help="address to listen on (default: the setting 'host')")
    parser.add_argument("--port", type=int, help="port to listen on (default: the setting 'port')")
    return parser


def _fail(sentence: str) -> int:
    print(f"umbel: {sentence}", file=sys.stderr)
    return 2


def _serve(fed: Federation, settings: Settings) -> int:
    # large bodies are spooled beside the uploads, not in a /tmp that may be memory
    tempfile.tempdir = str(fed.settings.home)
    notifier = Notifier(fed.broker)
    sockets: dict[int, Any] = {}
    connections = most_connections()
    front = Front(fed, connections)
    try:
        # half of the connections are left to other requests
        server = listen(create_app(fed, notifier, places=connections // 2), settings, sockets, front)
    except (OSError, ValueError) as error:
        notifier.stop()
        front.stop()
        why = getattr(error, "strerror", None) or error
        return _fail(
            f"cannot listen on {settings.host}:{settings.port} ({why}): choose another with --host and --port"
        )
    with _stop_signals():
        for item in listeners(sockets):
            log.info("serving http://%s:%s", item.effective_host, item.effective_port)
        try:
            server.asyncore.loop(timeout=1, map=sockets, use_poll=True)
        except _Stop:
            log.info("stopping")
        # waiting polls are answered with what they have; clients that are cut off repeat the request
        notifier.stop()
        front.parking.wait_until_empty(GRACE)
        server.task_dispatcher.shutdown(timeout=GRACE)
        front.stop()
        for item in list(sockets.values()):
            item.close()
    return 0


def listen(app: Flask, settings: Settings, sockets: dict[int, Any], front: Front) -> BaseWSGIServer:
    """Open the listening sockets of ``app``, registered in ``sockets``. Raises OSError and ValueError."""
    # it warns of every request that waits for a thread, such as many polls with the same news
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    server = create_server(
        app,
        map=sockets,
        host=settings.host,
        port=settings.port,
        threads=settings.web_threads,
        # ``front`` closes idle connections before this many are open
        connection_limit=front.most + 50,
        backlog=1024,
        cleanup_interval=1,
        recv_bytes=64 * 1024,
        # detect during a long poll that its client has disconnected
        channel_request_lookahead=1,
        max_request_body_size=limits.MAX_REQUEST_BYTES + 1,
        max_request_header_size=32 * 1024,
        inbuf_overflow=SPOOL_ABOVE,
        # keep responses of usual size in memory
        outbuf_overflow=limits.MAX_REQUEST_BYTES,
        asyncore_use_poll=True,
        ident="umbel",
    )
    channel_class = type("Channel", (Channel,), {"front": front})
    for listener in listeners(sockets):
        listener.channel_class = channel_class
        listener.maintenance = front.maintain
    return server


def listeners(sockets: dict[int, Any]) -> list[BaseWSGIServer]:
    """Return the listening sockets: a host name may resolve to several addresses."""
    return [item for item in sockets.values() if isinstance(item, BaseWSGIServer)]


@contextmanager
def _stop_signals() -> Iterator[None]:
    """End the loop at the first SIGTERM or SIGINT; outside the main thread, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)

    def stop(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise _Stop

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
