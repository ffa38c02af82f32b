"""HTTP to the service: persistent connections, safe retries, errors of ``umbel.protocol``."""

from __future__ import annotations

import json
import logging
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, SSLError

from ..protocol import parcel
from ..protocol.errors import ProtocolError, ServiceError, ServiceUnavailable, service_error
from ..protocol.version import __version__
from .account import Account

logger = logging.getLogger(__name__)

#: Seconds for which the service may be unreachable before a request fails.
PATIENCE = 600.0
#: The same until the service has answered once, because a wrong address is then more likely, and after an
#: internal error of the service, which may be permanent.
BRIEF_PATIENCE = 10.0
CONNECT_TIMEOUT = 10.0
#: Pauses of at least this length (seconds) are logged as warnings.
WARNING_PAUSE = 2.0
#: Longest pause between two tries (seconds).
LONGEST_PAUSE = 10.0
#: Statuses after which the same request may succeed a little later.
RETRIED = frozenset({429, 502, 503, 504})  # and 500, for a short time
SAFE = frozenset({"GET", "DELETE", "PATCH"})


class TransportClosed(ServiceUnavailable):
    """This program closed the connection, or gave up, while a request was in progress."""


class _RetryableError(Exception):
    """A failed try that may be repeated after ``pause`` seconds; only for a short time if ``brief``."""

    def __init__(self, error: ServiceError, pause: float = 0.0, brief: bool = False):
        super().__init__(error)
        self.error = error
        self.pause = pause
        self.brief = brief


@dataclass(frozen=True)
class Request:
    """One request to the service.

    ``query``: parameters; those that are None are left out. ``body``: a JSON value. ``blobs``: bytes sent
    with it in a parcel (see ``umbel.protocol.parcel``). ``accept``: Content-Type of a parcel that the answer
    may be. ``key``: Idempotency-Key; without one a POST is sent once, unless it is ``repeatable``. ``wait``:
    how long the answer may take (seconds). ``patience``: how long to repeat the request (seconds); None: as
    long as the transport's. ``given_up``: once this event is set, the request is not repeated.
    """

    method: str
    path: str
    query: dict[str, Any] | None = None
    body: Any = None
    blobs: Sequence[bytes] | None = None
    accept: str | None = None
    key: str | None = None
    repeatable: bool = False
    wait: float = 30.0
    patience: float | None = None
    given_up: threading.Event | None = None


class Transport(Protocol):
    """How requests reach a service: over HTTP, or inside this process for tests."""

    def send(self, request: Request) -> Any:
        """Send a request; return the value of the answer or None. Raises ServiceError."""

    def clone(self) -> Transport:
        """Return a transport to the same service that is closed independently."""

    def close(self) -> None:
        """Close the connections. Requests in progress raise TransportClosed at once."""


class _Connections:
    """The open sockets of one transport. Closing them unblocks threads that read from them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[HTTPConnection] = []
        self._is_shut_down = False

    def add(self, connection: HTTPConnection) -> None:
        """Add a new connection. Raises OSError if ``shut_down`` was called in the meantime."""
        with self._lock:
            if self._is_shut_down:
                connection.close()
                raise ConnectionAbortedError("the transport was closed")
            self._open = [c for c in self._open if c.sock is not None]
            self._open.append(connection)

    def shut_down(self) -> None:
        """Unblock every thread that reads from a connection, and reject new connections."""
        with self._lock:
            self._is_shut_down = True
            for connection in self._open:
                sock = connection.sock
                try:
                    if sock is not None:
                        sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # closed by the other side already


class HttpTransport:
    """Requests over HTTP or HTTPS, with a pool of persistent connections. Thread-safe."""

    def __init__(self, account: Account, patience: float = PATIENCE, reached: threading.Event | None = None):
        self.account = account
        self.patience = patience
        self._reached = reached or threading.Event()
        self._closed = threading.Event()
        self._connections = _Connections()
        self._pool = _make_pool(account.url, self._connections)
        self._base = urlsplit(account.url).path.rstrip("/")
        self._headers = {"Accept": "application/json", "User-Agent": f"umbel/{__version__}"}
        if account.token:
            self._headers["Authorization"] = f"Bearer {account.token}"

    def send(self, request: Request) -> Any:
        """Send a request, repeatedly if necessary; see ``Request``."""
        repeatable = request.repeatable or request.key is not None or request.method in SAFE
        patience = self.patience if request.patience is None else request.patience
        started = time.monotonic()
        for pause in _pauses():
            self._check_open(request)
            try:
                return self._try(request)
            except _RetryableError as error:
                failure = error
            self._check_open(request)
            if not repeatable:
                raise failure.error
            pause = max(pause, failure.pause)
            brief = failure.brief or not self._reached.is_set()
            if time.monotonic() + pause > started + (min(patience, BRIEF_PATIENCE) if brief else patience):
                raise failure.error
            # short interruptions need no attention; during longer ones the program must not seem to hang
            level = logging.WARNING if pause >= WARNING_PAUSE else logging.INFO
            logger.log(level, "%s; trying again in %.1f s", failure.error, pause)
            (request.given_up or self._closed).wait(pause)
        raise AssertionError("pauses never end")

    def clone(self) -> HttpTransport:
        """Return a transport to the same service with connections of its own."""
        return HttpTransport(self.account, self.patience, self._reached)

    def close(self) -> None:
        """Close all connections. Requests in progress raise TransportClosed."""
        self._closed.set()
        self._connections.shut_down()
        self._pool.close()

    def _check_open(self, request: Request) -> None:
        if self._closed.is_set() or (request.given_up is not None and request.given_up.is_set()):
            raise TransportClosed()

    def _try(self, request: Request) -> Any:
        headers = dict(self._headers)
        body = None
        if request.blobs is not None:
            body = parcel.pack(request.body, request.blobs)
            headers["Content-Type"] = parcel.SUBMISSION_TYPE
        elif request.body is not None:
            body = json.dumps(request.body, separators=(",", ":")).encode()
            headers["Content-Type"] = "application/json"
        if request.accept is not None:
            headers["Accept"] = f"{request.accept}, {headers['Accept']}"
        if request.key is not None:
            headers["Idempotency-Key"] = request.key
        try:
            response = self._pool.urlopen(
                request.method,
                self._base + _target(request),
                body=body,
                headers=headers,
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=request.wait + 15.0),
            )
        except (HTTPError, OSError) as error:
            raise self._unreachable(error) from error
        self._reached.set()
        return _read_answer(response)

    def _unreachable(self, error: Exception) -> Exception:
        certificate = isinstance(error, SSLError)
        advice = "check its certificate" if certificate else "check the address and that the service runs"
        reason = str(error).rpartition(": ")[2] or type(error).__name__
        failure = ServiceUnavailable(
            f"the service at {self.account.url} cannot be reached ({reason}): {advice}",
            details={"url": self.account.url},
        )
        return failure if certificate else _RetryableError(failure)


def _make_pool(url: str, connections: _Connections) -> urllib3.HTTPConnectionPool:
    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            connections.add(self)

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            connections.add(self)

    # TCP_NODELAY is urllib3's default; SO_KEEPALIVE detects a lost peer during a long poll
    options = [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    pool = urllib3.connection_from_url(url, maxsize=8, socket_options=options)
    pool.ConnectionCls = Secure if isinstance(pool, urllib3.HTTPSConnectionPool) else Plain
    return pool


def _target(request: Request) -> str:
    query = {k: v for k, v in (request.query or {}).items() if v is not None}
    return f"{request.path}?{urlencode(query)}" if query else request.path


def _read_answer(response: urllib3.BaseHTTPResponse) -> Any:
    data = response.data
    if 200 <= response.status < 300:
        if not data:
            return None
        try:
            if response.headers.get("Content-Type") == parcel.RESULTS_TYPE:
                return parcel.unpack_results(data)
            return json.loads(data)
        except (ValueError, ProtocolError):
            raise ServiceUnavailable(
                "the service's answer is neither JSON nor the requested parcel: check that the address is "
                "that of an Umbel service"
            ) from None
    status = response.status
    error = _read_error(status, data)
    if status in RETRIED:
        raise _RetryableError(error, _retry_after(response.headers.get("Retry-After"), error))
    if status == 500:
        raise _RetryableError(error, brief=True)
    raise error


def _read_error(status: int, data: bytes) -> ServiceError:
    try:
        answer = json.loads(data)
        code, message, details = answer.get("code"), str(answer.get("message", "")), answer.get("details")
        details = dict(details or {})
    except (ValueError, AttributeError, TypeError):
        code, message, details = None, "", {}
    if not message:
        message = f"the service, or a proxy in front of it, answered with HTTP status {status}"
    return service_error(status, code, message, details)


def _retry_after(header: str | None, error: ServiceError) -> float:
    """Return the pause that the service asks for, seconds."""
    try:
        return float(header or error.details.get("retry_after") or 0.0)
    except (TypeError, ValueError):
        return 0.0  # a date, which only proxies send: the usual pauses suffice


def _pauses() -> Iterator[float]:
    """Yield increasing pauses (seconds), partly random so that clients do not retry at the same time."""
    pause = 0.05
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(pause * 2, LONGEST_PAUSE)
