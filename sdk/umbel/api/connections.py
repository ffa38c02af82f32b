"""The connections of one transport: exchanges of one request and one answer over persistent sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from ..system.forks import after_fork

CONNECT_TIMEOUT = 10.0
#: How long the other side may neither receive nor send anything during an exchange (seconds).
SILENCE = 15.0
#: A larger body is sent in pieces of this size, each with its own time limit (bytes): what is limited is
#: silence, not the time that the whole body takes.
PIECE = 32 * 1024
#: A larger answer is read in pieces of this size (bytes); when it is cut, the rest can be requested.
READ = 128 * 1024


@dataclass
class Answer:
    """A complete answer."""

    status: int
    headers: urllib3.HTTPHeaderDict
    data: bytes


class Cut(Exception):
    """The connection ended during an exchange.

    ``sent``: bytes of the body that were sent; ``partial``: the beginning of the answer, if a later exchange
    can read the rest.
    """

    def __init__(self, cause: Exception, sent: int, partial: Answer | None):
        super().__init__(str(cause))
        self.cause = cause
        self.sent = sent
        self.partial = partial


class Connections:
    """A pool of connections to one address. Thread-safe; a forked child starts with an empty one."""

    _lock: threading.Lock
    _open: list[HTTPConnection]
    _pool: urllib3.HTTPConnectionPool

    def __init__(self, url: str):
        self._url = url
        self._base = urlsplit(url).path.rstrip("/")
        self._reset()
        after_fork(self._forget)

    def exchange(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes | None,
        *,
        silence: float = SILENCE,
        deadline: float | None = None,
    ) -> Answer:
        """Send a request and return the answer.

        ``silence``: how long the answer may take, seconds; ``deadline``: when the exchange must be over, on
        the monotonic clock. Raises Cut.
        """
        left = max(0.05, deadline - time.monotonic()) if deadline is not None else None
        sent = _Count()
        connect = CONNECT_TIMEOUT if left is None else min(CONNECT_TIMEOUT, left)
        read = silence if left is None else min(silence, left)
        partial: Answer | None = None
        pieces: Any = body
        if body is not None and len(body) > PIECE:
            headers = {**headers, "Content-Length": str(len(body))}
            pieces = sent.count(body)
        try:
            with self._limited(left):
                response = self._pool.urlopen(
                    method,
                    self._base + target,
                    body=pieces,
                    headers=headers,
                    retries=False,
                    redirect=False,
                    timeout=urllib3.Timeout(connect=connect, read=read),
                    preload_content=False,
                )
                partial = Answer(response.status, response.headers, b"")
                _read(response, partial)
                _check_whole(partial)
        except (HTTPError, OSError) as error:
            usable = partial is not None and bool(partial.data) and "ETag" in partial.headers
            raise Cut(error, sent.bytes, partial if usable else None) from error
        return partial

    def close(self) -> None:
        """Close the connections; threads that use one are unblocked, and new ones are refused."""
        with self._lock:
            self._is_shut_down = True
            for connection in self._open:
                _shut_down(connection)
        self._pool.close()

    def add(self, connection: HTTPConnection) -> None:
        """Add a new connection. Raises OSError if ``close`` was called in the meantime."""
        with self._lock:
            if self._is_shut_down:
                connection.close()
                raise ConnectionAbortedError("the transport was closed")
            self._open = [c for c in self._open if c.sock is not None]
            self._open.append(connection)

    @contextmanager
    def _limited(self, left: float | None) -> Iterator[None]:
        """End the exchange of this thread after ``left`` seconds, even while bytes arrive."""
        if left is None:
            yield
            return
        used: list[HTTPConnection] = []
        self._current.used = used
        timer = threading.Timer(left, lambda: list(map(_shut_down, used)))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._current.used = None

    def use(self, connection: HTTPConnection) -> None:
        """Record that this thread's exchange uses a connection."""
        used = getattr(self._current, "used", None)
        if used is not None:
            used.append(connection)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._current = threading.local()
        self._open = []
        self._is_shut_down = False
        self._pool = _make_pool(self._url, self)

    def _forget(self) -> None:
        """In a forked child: release the parent's sockets without a word to their other side."""
        inherited, was_shut_down = self._open, self._is_shut_down
        self._reset()
        self._is_shut_down = was_shut_down
        for connection in inherited:
            sock = connection.sock
            if sock is not None:
                sock.close()


class _Count:
    """Counts the bytes of a body as they are sent."""

    def __init__(self) -> None:
        self.bytes = 0

    def count(self, body: bytes) -> Iterator[memoryview]:
        """Yield a body in pieces."""
        view = memoryview(body)
        for start in range(0, len(body), PIECE):
            yield view[start : start + PIECE]
            self.bytes = min(start + PIECE, len(body))


def _read(response: urllib3.BaseHTTPResponse, answer: Answer) -> None:
    """Read an answer to its end into ``answer``, which has the beginning if it is cut."""
    pieces = []
    try:
        if (response.length_remaining or 0) <= READ and "Content-Length" in response.headers:
            pieces.append(response.read())
        else:
            while piece := response.read(READ):
                pieces.append(piece)
    finally:
        answer.data = b"".join(pieces)
        if len(pieces) > 1 or response.length_remaining:
            response.release_conn()


def _check_whole(answer: Answer) -> None:
    """Raise HTTPError if the connection ended within the headers: without them, no body seems to follow."""
    ended = {"Content-Length", "Transfer-Encoding"}.intersection(answer.headers)
    if not answer.data and answer.status != 204 and not ended:
        raise HTTPError("the connection was closed within the headers of the answer")


def _shut_down(connection: HTTPConnection) -> bool:
    """Unblock the thread that uses a connection; return whether it was connected."""
    sock = connection.sock
    try:
        if sock is not None:
            sock.shutdown(socket.SHUT_RDWR)
            return True
    except OSError:
        pass  # closed by the other side already
    return False


def _make_pool(url: str, connections: Connections) -> urllib3.HTTPConnectionPool:
    class Reported(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            connections.add(self)

        def request(self, *args: object, **kwargs: object) -> None:
            connections.use(self)
            super().request(*args, **kwargs)  # type: ignore[arg-type]

    class Secure(Reported, HTTPSConnection):
        pass

    # TCP_NODELAY is urllib3's default; SO_KEEPALIVE detects a lost peer during a long poll
    options = [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    pool = urllib3.connection_from_url(url, maxsize=8, socket_options=options)
    pool.ConnectionCls = Secure if isinstance(pool, urllib3.HTTPSConnectionPool) else Reported
    return pool
