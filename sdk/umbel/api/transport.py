"""HTTP to the service: persistent connections, safe retries, errors of ``umbel.protocol``."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

from urllib3.exceptions import SSLError

from ..protocol import parcel
from ..protocol.errors import NotFound, ServiceUnavailable, UmbelError, Unauthorized
from ..protocol.version import __version__
from ..system.forks import after_fork
from .account import Account, explain
from .answers import RetryableError, read_answer
from .connections import SILENCE, Answer, Connections, Cut
from .upload import RESUMED_FROM, Upload

logger = logging.getLogger(__name__)

#: Seconds for which the service may be unreachable before a request fails.
PATIENCE = 600.0
#: The same until the service has answered once, because a wrong address is then more likely, and after an
#: internal error of the service, which may be permanent.
BRIEF_PATIENCE = 10.0
#: Pauses of at least this length (seconds) are logged as warnings.
WARNING_PAUSE = 2.0
#: Longest pause between two tries (seconds).
LONGEST_PAUSE = 10.0
SAFE = frozenset({"GET", "DELETE", "PATCH"})


class TransportClosed(ServiceUnavailable):
    """This program closed the connection, or gave up, while a request was in progress."""


@dataclass(frozen=True)
class Request:
    """One request to the service.

    ``query``: parameters; those that are None are left out. ``body``: a JSON value. ``blobs``: bytes sent
    with it in a parcel (see ``umbel.protocol.parcel``). ``accept``: Content-Type of a parcel that the answer
    may be. ``key``: Idempotency-Key; without one a POST is sent once, unless it is ``repeatable``. ``wait``:
    how long the service may take to answer (seconds). ``patience``: after how long the request fails
    (seconds), also while it is in progress; 0: it is tried once; None: it is repeated for the transport's
    patience without an answer. ``given_up``: once this event is set, the request is not repeated.
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


class _Try:
    """What the tries of one request share: its encoded body, its limits, and what earlier tries achieved."""

    def __init__(self, request: Request, headers: dict[str, str], patience: float):
        self.request = request
        self.headers = dict(headers)
        self.body: bytes | None = None
        self.upload: Upload | None = None
        self.partial: Answer | None = None
        self.started = time.monotonic()
        self.patience = patience if request.patience is None else request.patience
        self.deadline = self.started + request.patience if request.patience else None
        self.pauses = _pauses()
        self._achieved = 0
        if request.blobs is not None:
            self.body = parcel.pack(request.body, request.blobs)
            self.headers["Content-Type"] = parcel.SUBMISSION_TYPE
        elif request.body is not None:
            self.body = json.dumps(request.body, separators=(",", ":")).encode()
            self.headers["Content-Type"] = "application/json"
        if request.accept is not None:
            self.headers["Accept"] = f"{request.accept}, {self.headers['Accept']}"
        if request.key is not None:
            self.headers["Idempotency-Key"] = request.key

    @property
    def repeatable(self) -> bool:
        """True if the request may be sent more than once."""
        return self.request.repeatable or self.request.key is not None or self.request.method in SAFE

    @property
    def silence(self) -> float:
        """How long to wait for the answer of one try, seconds."""
        if self.request.patience is not None or self.request.wait != Request.wait:
            return self.request.wait + SILENCE
        return min(self.request.wait + SILENCE, max(self.patience, 1.0))

    def fail(self, cut: Cut) -> None:
        """Keep what a try achieved that was cut; the patience begins anew with each progress."""
        if cut.partial is not None and self.request.method == "GET":
            self.partial = self.join(cut.partial)
        if self.upload is None and self.repeatable and cut.sent and len(self.body or b"") >= RESUMED_FROM:
            self.upload = Upload(self.body or b"")
        achieved = (
            self.upload.stored if self.upload is not None else len(self.partial.data if self.partial else b"")
        )
        if achieved > self._achieved:
            self.started = time.monotonic()
            self.pauses = _pauses()
        self._achieved = achieved

    def join(self, answer: Answer) -> Answer:
        """Return an answer with its beginning, if an earlier try received that."""
        partial, self.partial = self.partial, None
        if partial is None or answer.status != 206:
            return answer
        return Answer(partial.status, partial.headers, partial.data + answer.data)

    def may_pause(self, pause: float, brief: bool) -> bool:
        """Return whether there is time for another try after ``pause`` seconds."""
        again = time.monotonic() + pause
        limit = min(self.patience, BRIEF_PATIENCE) if brief else self.patience
        return again <= self.started + limit and (self.deadline is None or again < self.deadline)


class HttpTransport:
    """Requests over HTTP or HTTPS, with a pool of persistent connections. Thread-safe.

    ``find`` returns the account again: it is called while there is no token, and when the token is rejected,
    because a login may have stored another one since.
    """

    def __init__(
        self,
        account: Account,
        patience: float = PATIENCE,
        reached: threading.Event | None = None,
        find: Callable[[], Account] | None = None,
    ):
        self.account = account
        self.patience = patience
        self._find = find
        self._reached = reached or threading.Event()
        self._closed = threading.Event()
        self._connections = Connections(account.url)
        after_fork(self._replace_events)
        self._headers = {"Accept": "application/json", "User-Agent": f"umbel/{__version__}"}
        self._use(account)

    def send(self, request: Request) -> Any:
        """Send a request, repeatedly if necessary; see ``Request``."""
        if not self.account.token:
            self._renew_token()
        tries = _Try(request, self._headers, self.patience)
        while True:
            self._check_open(request)
            try:
                return self._try(tries)
            except RetryableError as error:
                failure = error
            except Unauthorized as error:
                used = tries.headers.get("Authorization")
                self._renew_token()
                if self._headers.get("Authorization") == used:
                    raise explain(error, self.account) from None
                tries.headers["Authorization"] = self._headers["Authorization"]
                continue
            self._check_open(request)
            pause = max(next(tries.pauses), failure.pause)
            brief = failure.brief or not self._reached.is_set()
            if not tries.repeatable or not tries.may_pause(pause, brief):
                raise failure.error
            # short interruptions need no attention; during longer ones the program must not seem to hang
            level = logging.WARNING if pause >= WARNING_PAUSE else logging.INFO
            logger.log(level, "%s; trying again in %.1f s", failure.error, pause)
            (request.given_up or self._closed).wait(pause)

    def _use(self, account: Account) -> None:
        self.account = account
        if account.token:
            self._headers["Authorization"] = f"Bearer {account.token}"

    def _renew_token(self) -> None:
        """Use the token that is stored for this address now, if there is one."""
        try:
            found = self._find() if self._find is not None else None
        except UmbelError:  # no file, or a damaged one
            return
        if found is not None and found.url == self.account.url:
            self._use(found)

    def _replace_events(self) -> None:
        """In a forked child: another thread may have held their locks."""
        self._closed, self._reached = _copy(self._closed), _copy(self._reached)

    def clone(self) -> HttpTransport:
        """Return a transport to the same service with connections of its own."""
        return HttpTransport(self.account, self.patience, self._reached, self._find)

    def close(self) -> None:
        """Close all connections. Requests in progress raise TransportClosed."""
        self._closed.set()
        self._connections.close()

    def _check_open(self, request: Request) -> None:
        if self._closed.is_set() or (request.given_up is not None and request.given_up.is_set()):
            raise TransportClosed()

    def _try(self, tries: _Try) -> Any:
        request, headers, body = tries.request, dict(tries.headers), tries.body
        try:
            if tries.upload is not None:
                tries.upload.send(lambda path, query, part: self._put(tries, path, query, part))
                headers.update(tries.upload.headers)
                body = b""
            if tries.partial is not None:
                headers["Range"] = f"bytes={len(tries.partial.data)}-"
                headers["If-Range"] = tries.partial.headers["ETag"]
            answer = self._exchange(
                tries, request.method, _target(request.path, request.query), headers, body
            )
        except Cut as cut:
            tries.fail(cut)
            raise self._unreachable(cut.cause) from cut
        try:
            return read_answer(tries.join(answer))
        except NotFound as error:
            if tries.upload is None:
                raise
            tries.upload.refused(error)

    def _put(self, tries: _Try, path: str, query: dict[str, Any], part: bytes) -> Any:
        headers = {**self._headers, "Content-Type": "application/octet-stream"}
        return read_answer(self._exchange(tries, "PUT", _target(path, query), headers, part))

    def _exchange(
        self, tries: _Try, method: str, target: str, headers: dict[str, str], body: bytes | None
    ) -> Answer:
        answer = self._connections.exchange(
            method, target, headers, body, silence=tries.silence, deadline=tries.deadline
        )
        self._reached.set()
        return answer

    def _unreachable(self, error: Exception) -> Exception:
        certificate = isinstance(error, SSLError)
        advice = "check its certificate" if certificate else "check the address and that the service runs"
        reason = str(error).rpartition(": ")[2] or type(error).__name__
        failure = ServiceUnavailable(
            f"the service at {self.account.url} cannot be reached ({reason}): {advice}",
            details={"url": self.account.url},
        )
        return failure if certificate else RetryableError(failure)


def _copy(event: threading.Event) -> threading.Event:
    copy = threading.Event()
    if event.is_set():
        copy.set()
    return copy


def _target(path: str, query: dict[str, Any] | None) -> str:
    query = {k: v for k, v in (query or {}).items() if v is not None}
    return f"{path}?{urlencode(query)}" if query else path


def _pauses() -> Iterator[float]:
    """Yield increasing pauses (seconds), partly random so that clients do not retry at the same time."""
    pause = 0.05
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(pause * 2, LONGEST_PAUSE)
