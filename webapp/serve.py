"""The embedded web server: ``python -m webapp.serve --home DIR``.

waitress: threads for the requests, one loop for the connections, so that slow or idle clients hold no thread.
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
from federation.context import Federation, open_federation
from federation.process import keep_memory
from umbel.protocol import limits
from umbel.protocol.errors import HTTP_STATUS, UmbelError

from . import errors
from .app import SECURITY_HEADERS, create_app

log = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: Connections at once; more wait to be accepted.
CONNECTIONS = 500
#: Seconds after which an idle connection is closed.
IDLE_TIMEOUT = 60
#: A body only somewhat too large is read to its end, so that its sender gets our 413 and is not cut off.
MAX_BODY = 2 * limits.MAX_REQUEST_BYTES
#: Seconds that requests have to finish once the server is told to stop.
GRACE = 1.0


class _ErrorTask(ErrorTask):
    """waitress's own refusals (broken HTTP, endless headers, huge bodies) in the API's error shape."""

    def execute(self) -> None:
        error = self.request.error
        # 501 is its answer to a Transfer-Encoding that it does not know
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
        # waitress would ask even those for their body whose headers it has refused
        if self.request.error is None:
            super().send_continue()
        else:
            self.request.expect_continue = False


class _Stop(SystemExit):
    """Leaves waitress's loop."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code (2: it cannot be started as asked)."""
    flags = _parser().parse_args(argv)
    try:
        keep_memory()
        settings = load(flags.home, host=flags.host, port=flags.port)
        logging.basicConfig(level=settings.log_level, format=LOG_FORMAT)
        fed = open_federation(settings)
    except UmbelError as error:
        return _refuse(error.message)
    try:
        return _serve(fed, settings)
    finally:
        fed.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m webapp.serve", description="Serve the API of a federation."
    )
    parser.add_argument("--home", type=Path, help="folder of the service (default: $UMBEL_HOME or ~/.umbel)")
    parser.add_argument("--host", help="address to listen on (default: the setting 'host')")
    parser.add_argument("--port", type=int, help="port to listen on (default: the setting 'port')")
    return parser


def _refuse(sentence: str) -> int:
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
        return _refuse(
            f"cannot listen on {settings.host}:{settings.port} ({why}): choose others with --host and --port"
        )
    with _stop_signals():
        for item in listeners(sockets):
            log.info("serving http://%s:%s", item.effective_host, item.effective_port)
        try:
            server.asyncore.loop(timeout=60, map=sockets, use_poll=True)
        except _Stop:
            log.info("stopping")
        # the polls answer with what they have; whoever is cut off all the same asks again elsewhere
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
        # notice during a long poll that its client is gone
        channel_request_lookahead=1,
        max_request_body_size=MAX_BODY,
        max_request_header_size=32 * 1024,
        # keep usual requests in memory
        inbuf_overflow=limits.MAX_REQUEST_BYTES,
        outbuf_overflow=limits.MAX_REQUEST_BYTES,
        asyncore_use_poll=True,
        ident="umbel",
    )
    for listener in listeners(sockets):
        listener.channel_class = _Channel
    return server


def listeners(sockets: dict[int, Any]) -> list[BaseWSGIServer]:
    """The listening ones among ``sockets``: a host name may stand for several addresses."""
    return [item for item in sockets.values() if isinstance(item, BaseWSGIServer)]


@contextmanager
def _stop_signals() -> Iterator[None]:
    """SIGTERM and SIGINT leave the loop, once; outside the main thread signals are somebody else's."""
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
