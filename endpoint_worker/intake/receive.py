"""From a Celery message to a verified bundle with its function's bytes.

Nothing is unpickled here. Bundles that the service has not signed for this endpoint are rejected.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import redis

from umbel.protocol import names
from umbel.protocol.envelope import Verifier
from umbel.protocol.errors import ProtocolError
from umbel.protocol.messages import Bundle, Outcome

from ..broker.client import BROKER_ERRORS
from ..config.policy import Rules
from ..runners.job import unstarted

log = logging.getLogger(__name__)

#: Maximum bytes of serialized functions in memory and on disk.
MEMORY_BYTES = 64 * 1024 * 1024
DISK_BYTES = 1024 * 1024 * 1024


class Unavailable(Exception):
    """A genuine bundle cannot run now because its body or function is missing.

    ``outcomes``: all its calls are returned, except those in ``refused``.
    """

    def __init__(self, bundle: Bundle, message: str, refused: Iterable[Outcome] = ()):
        super().__init__(message)
        self.bundle = bundle
        self.message = message
        self.outcomes = [*unstarted(bundle, message), *refused]


class Opened(NamedTuple):
    """A verified bundle: calls that may run, bytes of its function, and outcomes of calls that may not run.

    If no call may run, nothing is fetched and ``function`` is empty.
    """

    bundle: Bundle
    function: bytes
    refused: list[Outcome]


class Intake:
    """Opens messages for one endpoint (its id); ``client`` reads bodies and functions from the broker.

    ``rules``: the site's policy; ``sandboxed``: the endpoint runs calls in a sandbox.
    """

    def __init__(
        self,
        endpoint: str,
        verifier: Verifier,
        functions: FunctionCache,
        client: redis.Redis,
        clock: Callable[[], float] = time.time,
        rules: Rules | None = None,
        sandboxed: bool = False,
    ):
        self._endpoint = endpoint
        self._verifier = verifier
        self._functions = functions
        self._client = client
        self._clock = clock
        self._rules = rules or Rules()
        self._sandboxed = sandboxed

    def open(self, raw: bytes | str) -> Opened:
        """Verify a message (JSON), apply the site's rules, and fetch the body and the function.

        Raises ProtocolError if it cannot be trusted and Unavailable if it cannot run now.
        """
        head, inline = _arguments(raw)
        bundle, header = Bundle.open_head(self._verifier, head, endpoint=self._endpoint, now=self._clock())
        bundle, refused = self._rules.judge(bundle, sandboxed=self._sandboxed)
        if refused:
            log.warning("bundle %s of user %s: %s", bundle.id, bundle.user, refused[0].message)
            if not bundle.calls:
                self._drop_body(bundle, inline)
                return Opened(bundle, b"", refused)
        try:
            bundle = bundle.with_body(header, self._body(bundle, inline))
            return Opened(bundle, self._function(bundle), refused)
        except Unavailable as error:
            raise Unavailable(error.bundle, error.message, refused) from None

    def give_back(self, message: bytes) -> Bundle:
        """Verify a message as it is in the queue, and delete its body; return the bundle without it.

        Raises ProtocolError if it cannot be trusted.
        """
        head, inline = _arguments(body_of(message))
        bundle, _ = Bundle.open_head(self._verifier, head, endpoint=self._endpoint, now=self._clock())
        self._drop_body(bundle, inline)
        return bundle

    def _function(self, bundle: Bundle) -> bytes:
        digest = bundle.function.sha256
        function = self._functions.get(digest)
        if function is None:
            function = self._fetch_function(bundle)
            self._functions.put(digest, function)
        return function

    def _drop_body(self, bundle: Bundle, inline: bytes | None) -> None:
        if inline is None:
            try:
                self._client.delete(names.body_key(self._endpoint, bundle.id))
            except BROKER_ERRORS as error:
                log.debug("bundle %s: its body cannot be deleted from the broker: %s", bundle.id, error)

    def _body(self, bundle: Bundle, inline: bytes | None) -> bytes:
        if inline is not None:
            return inline
        key = names.body_key(self._endpoint, bundle.id)
        try:
            pipe: Any = self._client.pipeline(transaction=False)
            body, _ = pipe.get(key).delete(key).execute()
        except BROKER_ERRORS as error:
            raise Unavailable(bundle, f"BROKER_UNREACHABLE: {error}") from None
        if body is None:
            raise Unavailable(bundle, "BODY_MISSING")
        return bytes(body)

    def _fetch_function(self, bundle: Bundle) -> bytes:
        digest = bundle.function.sha256
        try:
            data: Any = self._client.get(names.function_key(self._endpoint, digest))
        except BROKER_ERRORS as error:
            raise Unavailable(bundle, f"BROKER_UNREACHABLE: {error}") from None
        if data is None:
            raise Unavailable(bundle, "FUNCTION_MISSING")
        if hashlib.sha256(data).hexdigest() != digest:
            log.error(
                "function %s: the bytes in the broker do not match the registered digest", bundle.function.id
            )
            raise Unavailable(bundle, "FUNCTION_MISSING")
        return bytes(data)


def body_of(message: bytes) -> bytes | str:
    """Return what Celery calls the body of a message in the queue, which kombu may have encoded."""
    try:
        record = json.loads(message)
        body, encoding = record["body"], record["properties"].get("body_encoding")
        return base64.b64decode(body) if encoding == "base64" else body
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ProtocolError("a message on the endpoint's queue is not a bundle") from None


def _arguments(raw: bytes | str) -> tuple[bytes, bytes | None]:
    try:
        head, body = json.loads(raw)[0]
        return base64.b64decode(head), None if body is None else base64.b64decode(body)
    except (ValueError, TypeError, IndexError, KeyError, binascii.Error, RecursionError):
        raise ProtocolError("a message on the endpoint's queue is not a bundle") from None


class FunctionCache:
    """Serialized functions by their SHA-256: in memory, and in ``directory`` across restarts."""

    def __init__(self, directory: Path, *, memory: int = MEMORY_BYTES, disk: int = DISK_BYTES):
        self._directory = directory
        self._memory = memory
        self._disk = disk
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        directory.mkdir(parents=True, exist_ok=True)

    def get(self, digest: str) -> bytes | None:
        """Return the function with this digest, or None."""
        data = self._kept.get(digest)
        if data is not None:
            self._kept.move_to_end(digest)
            return data
        try:
            data = (self._directory / digest).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != digest:
            log.warning("%s is damaged; fetching the function again", self._directory / digest)
            return None
        self._remember(digest, data)
        return data

    def put(self, digest: str, data: bytes) -> None:
        """Store a function; a full or read-only disk is only logged."""
        self._remember(digest, data)
        try:
            draft = self._directory / f".{digest}.{os.getpid()}"
            draft.write_bytes(data)
            os.replace(draft, self._directory / digest)
            self._prune()
        except OSError as error:
            log.warning("function %s: cannot be cached on disk: %s", digest[:12], error)

    def _remember(self, digest: str, data: bytes) -> None:
        self._size += len(data) - len(self._kept.get(digest, b""))
        self._kept[digest] = data
        while self._size > self._memory and len(self._kept) > 1:
            self._size -= len(self._kept.popitem(last=False)[1])

    def _prune(self) -> None:
        """Remove the oldest files while their total size exceeds the limit."""
        found: list[tuple[float, int, Any]] = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                status = entry.stat()
                found.append((status.st_mtime, status.st_size, entry.path))
        size = sum(item[1] for item in found)
        for _, bytes_, path in sorted(found):
            if size <= self._disk:
                return
            os.unlink(path)
            size -= bytes_
