"""One connection of the embedded web server.

On top of waitress: a request that waits is parked without a thread, a large body is read only after its
sender is authenticated, and a client that still sends receives the error instead of a reset connection.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.task import ErrorTask, WSGITask

from umbel.protocol.errors import HTTP_STATUS, ServiceError, ServiceUnavailable, TooMany

from . import errors
from .admission import PROCESSED_ABOVE, SMALL_BODY
from .app import SECURITY_HEADERS
from .auth import USER_KEY
from .buffers import BODY_KEY, Received
from .connections import Front
from .long_polls import WAIT_KEY, Parked, Wait
from .parking import Entry

log = logging.getLogger(__name__)

#: After an error, what its sender still sends is read and discarded: for so long (seconds), so much (bytes).
LINGER, LINGER_BYTES = 60.0, 64 * 1024 * 1024


class _Request(HTTPRequestParser):
    """A request. ``release``: returns the budget of its body."""

    #: Error of this service that replaces the response.
    refused: ServiceError | None = None
    #: None: not admitted yet.
    admitted: bool | None = None
    #: True while the request has one of the places for large requests.
    entered = False
    release: Callable[[], None] | None = None
    #: Its body in memory, and what releases that.
    kept: Received | None = None
    free: Callable[[], None] | None = None
    #: While it is parked, and until it runs again.
    entry: Entry | None = None

    def __init__(self, adj: Any):
        super().__init__(adj)
        # of the request, not of the connection: the next request may run before this one is put away
        self.wait = Wait()

    @property
    def is_large(self) -> bool:
        return bool(self.chunked or self.content_length > SMALL_BODY)

    def keep(self) -> None:
        """Receive the rest of the body into memory that is reserved for it."""
        receiver = self.body_rcv
        if self.free is not None and receiver is not None and receiver.remain:
            self.kept = Received(self.content_length)
            self.kept.append(receiver.buf.get())
            receiver.buf.close()
            receiver.buf = self.kept

    def close(self) -> None:
        release, self.release = self.release, None
        if release is not None:
            release()
        super().close()
        free, self.free = self.free, None
        if free is not None:
            free()


class _ErrorTask(ErrorTask):
    """Formats errors that never reach the application like errors of the API."""

    def execute(self) -> None:
        error, refused = self.request.error, self.request.refused
        if refused is not None:
            code, content = refused.code, errors.body(refused.code, refused.message, refused.details)
            if isinstance(refused, (TooMany, ServiceUnavailable)):
                self.response_headers.append(("Retry-After", str(errors.RETRY_AFTER)))
        else:
            # waitress answers 501 to an unknown Transfer-Encoding
            code = "INTERNAL_ERROR" if error.code == 500 else errors.CODES.get(error.code, "BAD_REQUEST")
            content = errors.body(code, f"{error.reason}: {error.body}")
        status = HTTPStatus(HTTP_STATUS[code])
        self.status = f"{status.value} {status.phrase}"
        if status == HTTPStatus.UNAUTHORIZED:
            self.response_headers.append(("WWW-Authenticate", "Bearer"))
        self.response_headers.extend([("Content-Type", "application/json"), *SECURITY_HEADERS.items()])
        self.set_close_on_finish()
        data = content.encode()
        self.content_length = len(data)
        self.write(data)


class _Task(WSGITask):
    """Runs the application; passes it what a waiting request keeps."""

    def get_environment(self) -> Any:
        environ = super().get_environment()
        environ[WAIT_KEY] = self.request.wait
        if self.request.kept is not None:
            environ[BODY_KEY] = self.request.kept.view
        return environ

    def execute(self) -> None:
        try:
            super().execute()
        finally:
            if self.environ is not None and USER_KEY in self.environ:
                self.channel.proven = True


class Channel(HTTPChannel):
    """One connection. ``front``: what all connections share."""

    front: Front
    parser_class = _Request
    error_task_class = _ErrorTask
    task_class = _Task
    request: Any
    will_close: bool
    close_when_flushed: bool

    #: Bytes sent so far.
    sent = 0
    #: Time until which the rest of a rejected request is read, and how much was read.
    lingers_until: float | None = None
    _discarded = 0
    _admitting = False
    _unread = False

    def __init__(self, server: Any, sock: Any, addr: Any, adj: Any, map: Any = None):
        #: True once a request of this connection was authenticated.
        self.proven = False
        #: When the connection was last used, and how much was sent by then (see ``Front.maintain``).
        self.since = time.time()
        self.mark = (self.since, 0)
        super().__init__(server, sock, addr, adj, map)
        self.front.accepted(self)

    # in the loop's thread

    @property
    def is_idle(self) -> bool:
        """True while the connection waits for a request, or for the rest of one."""
        return not (self.requests or self._admitting or self.total_outbufs_len)

    def readable(self) -> bool:
        """Pause reading while the sender of a large body is authenticated."""
        if self.lingers_until is not None:
            return True
        return not self._admitting and bool(super().readable())

    def received(self, data: bytes) -> bool:
        """Pass received bytes to the current request; a large one must be admitted first."""
        result = bool(super().received(data))
        request = self.request
        if request is not None and request.headers_finished and request.is_large and request.admitted is None:
            request.admitted = False
            self._admitting = True
            self.server.add_task(_Admission(self, request))
        return result

    def send_continue(self) -> None:
        """Request a body, unless its headers were rejected or it is not admitted yet."""
        if self.request.error is not None:
            self.request.expect_continue = False
        elif not self.request.is_large or self.request.admitted:
            super().send_continue()

    def send(self, data: bytes, do_close: bool = True) -> int:
        """Send and count."""
        count = int(super().send(data, do_close))
        self.sent += count
        return count

    def handle_read(self) -> None:
        """Read; discard what follows a rejected request."""
        if self.lingers_until is None:
            super().handle_read()
            return
        self._discarded += len(self.recv(self.adj.recv_bytes))
        if self._discarded > LINGER_BYTES:
            self.handle_close()

    def handle_write(self) -> None:
        """Write; a client that has not sent its whole request yet can then still read the response."""
        if self._unread and self.close_when_flushed and not self.will_close and not self.requests:
            self._flush_exception(self._flush_some)
            if not self.total_outbufs_len and not self.will_close and self.connected:
                self._unread = self.close_when_flushed = False
                self.lingers_until = time.time() + LINGER
                try:
                    self.socket.shutdown(socket.SHUT_WR)
                except OSError:
                    self.will_close = True
                return
        super().handle_write()

    def handle_close(self) -> None:
        """Close; a parked request runs once more to release what it keeps."""
        super().handle_close()
        request = self.request
        if request is not None and not self._admitting:
            request.close()
        for waiting in list(self.requests):
            if waiting.entry is not None:
                waiting.entry.resume()

    # in a thread of the pool

    def service(self) -> None:
        """Run the next request, or park it."""
        request = self.requests[0]
        if request.body_bytes_received > PROCESSED_ABOVE and not request.entered:
            # set first: the place may be passed on at once
            request.entered = True
            if not self.front.gate.enter(self):
                return
        self._unread = request.error is not None
        try:
            super().service()
        except Parked:
            request.entry = entry = Entry(self)
            self.front.parking.park(entry, request.wait)
            if not self.connected:
                entry.resume()
            return
        finally:
            if request.entered:
                request.entered = False
                self.front.gate.leave()
        if request.entry is not None:
            self.front.parking.leave(request.wait)
        request.wait.close()
        self.since = time.time()

    def resume(self) -> None:
        """Put the current request into the queue of the threads."""
        self.server.add_task(self)

    def admit(self, request: _Request, refused: ServiceError | None) -> None:
        """Continue to read a request, or reject it."""
        with self.requests_lock:
            self._admitting = False
            request.refused = refused
            request.admitted = refused is None
            if refused is not None:
                request.error = refused
                request.completed = True
                self.requests.append(request)
                self.request = None
                if len(self.requests) == 1:
                    self.server.add_task(self)
            else:
                self.proven = True
                request.keep()
                if request.expect_continue and not self.requests and not self.sent_continue:
                    super().send_continue()
        if not self.connected:
            request.close()
        self.server.pull_trigger()


class _Admission:
    """A task of the pool: authenticates the sender of a large body and reserves space for it."""

    def __init__(self, channel: Channel, request: _Request):
        self._channel = channel
        self._request = request

    def service(self) -> None:
        request, refused = self._request, None
        size = None if request.chunked else request.content_length
        try:
            header = request.headers.get("AUTHORIZATION", "")
            request.release = self._channel.front.bodies.admit(header, size)
            request.free = None if size is None else self._channel.front.bodies.keep(size)
        except ServiceError as error:
            refused = error
        except Exception:  # of the database: this request is rejected, and the connection must not hang
            log.exception("a large request cannot be authenticated")
            refused = ServiceUnavailable("the service cannot check the token now: try again")
        self._channel.admit(request, refused)

    def cancel(self) -> None:
        self._channel.cancel()
