"""The embedded web server: ``python -m webapp.serve --home DIR``.

Uses waitress: threads for requests and one loop for connections, so slow or idle clients occupy no thread.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Flask
from waitress import create_server
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer
from waitress.task import ErrorTask

from federation.broker.notifications import Notifier
from federation.config.settings import Settings, load
from federation.context import Federation
from federation.process import keep_memory, open_when_available
from umbel.protocol import limits
from umbel.protocol.errors import HTTP_STATUS, UmbelError

from . import errors
from .app import SECURITY_HEADERS, create_app

log = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: Most open connections; further ones wait to be accepted.
CONNECTIONS = 500
#: Seconds after which an idle connection is closed.
IDLE_TIMEOUT = 60
#: A body up to this size is read to its end, so that its sender receives status 413 and no broken connection.
MAX_BODY = 2 * limits.MAX_REQUEST_BYTES
#: Seconds for requests to finish after a stop signal.
GRACE = 1.0


class _ErrorTask(ErrorTask):
    """Formats waitress's own errors (invalid HTTP, oversized headers or bodies) like errors of the API."""

    def execute(self) -> None:
        error = self.request.error
        # waitress answers 501 to an unknown Transfer-Encoding
        code = "INTERNAL_ERROR" if error.code == 500 else errors.CODES.get(error.code, "BAD_REQUEST")
        content = errors.body(code, f"{error.reason}: {error.body}").encode()
        status = HTTPStatus(HTTP_STATUS[code])
        self.status = f"{status.value} {status.phrase}"
        self.response_headers.extend([("Content-Type", "application/json"), *SECURITY_HEADERS.items()])
        self.set_close_on_finish()
        self.content_length = len(content)
        self.write(content)


class _Channel(HTTPChannel):
    error_task_class = _ErrorTask

    def send_continue(self) -> None:
        # waitress would request the body even if it has rejected the headers
        if self.request.error is None:
            super().send_continue()
        else:
            self.request.expect_continue = False


class _Stop(SystemExit):
    """Ends waitress's loop."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code (2: invalid settings or address)."""
    flags = _parser().parse_args(argv)
    try:
        keep_memory()
        settings = load(flags.home, host=flags.host, port=flags.port)
        logging.basicConfig(level=settings.log_level, format=LOG_FORMAT)
        fed = open_when_available(settings, threading.Event())
    except UmbelError as error:
        return _fail(error.message)
    except OSError as error:
        return _fail(f"{error.filename or flags.home}: {error.strerror or error}")
    assert fed is not None, "only a stop request ends the wait for the database"
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
    notifier = Notifier(fed.broker)
    sockets: dict[int, Any] = {}
    try:
        server = listen(create_app(fed, notifier), settings, sockets)
    except (OSError, ValueError) as error:
        notifier.stop()
        why = getattr(error, "strerror", None) or error
        return _fail(
            f"cannot listen on {settings.host}:{settings.port} ({why}): choose another with --host and --port"
        )
    with _stop_signals():
        for item in listeners(sockets):
            log.info("serving http://%s:%s", item.effective_host, item.effective_port)
        try:
            server.asyncore.loop(timeout=60, map=sockets, use_poll=True)
        except _Stop:
            log.info("stopping")
        # waiting polls are answered with what they have; clients that are cut off repeat the request
        notifier.stop()
        server.task_dispatcher.shutdown(timeout=GRACE)
        for item in list(sockets.values()):
            item.close()
    return 0


def listen(app: Flask, settings: Settings, sockets: dict[int, Any]) -> BaseWSGIServer:
    """Open the listening sockets of ``app``, registered in ``sockets``. Raises OSError and ValueError."""
    server = create_server(
        app,
        map=sockets,
        host=settings.host,
        port=settings.port,
        threads=settings.web_threads,
        connection_limit=CONNECTIONS,
        channel_timeout=IDLE_TIMEOUT,
        # detect during a long poll that its client has disconnected
        channel_request_lookahead=1,
        max_request_body_size=MAX_BODY,
        max_request_header_size=32 * 1024,
        # keep requests and responses of usual size in memory
        inbuf_overflow=limits.MAX_REQUEST_BYTES,
        outbuf_overflow=limits.MAX_REQUEST_BYTES,
        asyncore_use_poll=True,
        ident="umbel",
    )
    for listener in listeners(sockets):
        listener.channel_class = _Channel
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
