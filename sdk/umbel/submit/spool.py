"""Calls that a program could not submit before it ended, in files until another program submits them.

One file per submission, in ``UMBEL_HOME/spool``: address of the service, a hash of the token, the
Idempotency-Key, the function and the arguments. The token itself is not stored.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..api.account import Account
from ..api.client import Client
from ..api.options import Options
from ..protocol import parcel
from ..protocol.errors import ProtocolError, ServiceUnavailable, TooMany, UmbelError
from ..serialization.codec import FunctionBody
from ..system.files import home_directory, write_private
from ..system.threads import GuardedThread
from .calls import Batch, Route

logger = logging.getLogger(__name__)

#: Version 1 has one function per file.
VERSION = 2
#: Largest size of all files together (bytes).
MAX_BYTES = 512 * 1024 * 1024
#: The service remembers an Idempotency-Key for a day. After this long (seconds) a submission that may have
#: been accepted is not repeated.
KEY_LIFETIME = 23 * 3600.0
_numbers = itertools.count()


class SpoolFull(OSError):
    """The spool has reached its largest size."""


@dataclass
class Outcome:
    """Numbers of calls: submitted, rejected by the service, of other users, and perhaps accepted before."""

    submitted: int = 0
    rejected: int = 0
    foreign: int = 0
    uncertain: int = 0


class Spool:
    """The files of one home directory, as one account sees them. ``owner``: a hash of address and token."""

    def __init__(self, account: Account, home: str | os.PathLike[str] | None = None):
        self.folder = home_directory(home) / "spool"
        self._account = account
        secret = f"{account.url}\n{account.token}".encode()
        self.owner = hashlib.sha256(secret).hexdigest()[:32]

    def save(self, batch: Batch, route: Route) -> None:
        """Store a submission; it is on disk when this returns. Raises OSError."""
        record = {
            "version": VERSION,
            "url": self._account.url,
            "owner": self.owner,
            "created": time.time(),
            "key": batch.key,
            "tried": batch.tried,
            "group_id": route.group_id,
            "endpoint": route.endpoint,
            "options": batch.options.to_json(),
            "functions": [
                {"name": fn.name, "source": fn.source, "description": fn.description, "calls": len(calls)}
                for fn, calls in batch.parts
            ],
            "cancelled": [n for n, call in enumerate(batch.calls) if call.future.abandoned],
        }
        bodies = [part.function.data for part in batch.parts]
        data = parcel.pack(record, [*bodies, *(call.payload for call in batch.calls)])
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        used = sum(file.stat().st_size for file in self.folder.iterdir())
        if used + len(data) > MAX_BYTES:
            raise SpoolFull(f"{self.folder} has reached its limit of {MAX_BYTES} bytes")
        name = f"{self.owner}-{time.time_ns():020d}-{os.getpid()}-{next(_numbers)}.calls"
        write_private(self.folder / name, data)
        _sync(self.folder)

    def has_own(self) -> bool:
        """Return whether there are files that this account has stored."""
        try:
            return any(
                name.startswith(self.owner) and name.endswith(".calls") for name in os.listdir(self.folder)
            )
        except OSError:
            return False

    def send(self, client: Client, *, wait: bool = True, repeat: bool = False) -> Outcome:
        """Submit this account's calls, oldest first; a file is deleted when the service has accepted it.

        ``wait``: wait for another program that does the same, otherwise do nothing then. ``repeat``: also
        submit what may have been accepted and is too old for its key. Raises ServiceUnavailable and TooMany;
        what is left then stays.
        """
        outcome = Outcome()
        with self._lock(wait) as locked:
            for file in sorted(self.folder.glob("*.calls")) if locked else ():
                self._send_file(client, file, repeat, outcome)
        return outcome

    def _send_file(self, client: Client, file: Path, repeat: bool, outcome: Outcome) -> None:
        try:
            record, functions, payloads = _read(file)
        except (ProtocolError, ValueError, KeyError, TypeError) as error:
            logger.error("%s cannot be read and is put aside: %s", file, error)
            file.rename(file.with_suffix(".damaged"))
            return
        if record["owner"] != self.owner:
            outcome.foreign += len(payloads)
            return
        if record["tried"] and not repeat and time.time() > record["created"] + KEY_LIFETIME:
            outcome.uncertain += len(payloads)
            return
        try:
            answer = client.submit(
                [(client.function_id(function), calls) for function, calls in functions],
                record["endpoint"],
                payloads,
                group_id=record["group_id"],
                options=Options(**record["options"]),
                key=record["key"],
            )
            cancelled = [answer["task_ids"][number] for number in record["cancelled"]]
            if cancelled:
                client.cancel_tasks(cancelled)
        except (ServiceUnavailable, TooMany):
            raise
        except UmbelError as error:
            logger.error("%d calls are rejected; %s is put aside: %s", len(payloads), file, error)
            file.rename(file.with_suffix(".rejected"))
            outcome.rejected += len(payloads)
            return
        file.unlink()
        _sync(self.folder)
        outcome.submitted += len(payloads)

    @contextmanager
    def _lock(self, wait: bool) -> Iterator[bool]:
        """Lock the spool; yield False if there is none, or another program has the lock and not ``wait``."""
        if not self.folder.is_dir():
            yield False
            return
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            yield False
            return
        try:
            yield True
        finally:
            os.close(descriptor)


def _read(file: Path) -> tuple[dict[str, Any], list[tuple[FunctionBody, int]], list[bytes]]:
    """Return the record of a file, its functions with their numbers of calls, and the payloads."""
    head, joined = parcel.split(file.read_bytes())
    record = json.loads(head)
    if record["version"] not in (1, VERSION):
        raise ValueError(f"it has version {record['version']}, this program reads version {VERSION}")
    blobs = parcel.cut(record["sizes"], joined)
    found = record["functions"] if record["version"] > 1 else [{**record, "calls": len(blobs) - 1}]
    functions = [
        (FunctionBody(data, fn["name"], fn["source"], fn["description"]), int(fn["calls"]))
        for fn, data in zip(found, blobs)
    ]
    return record, functions, blobs[len(found) :]


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_checked: set[str] = set()


def send_in_background(client: Client) -> None:
    """Submit what earlier programs of the client's account have stored, once per process."""
    account = getattr(client.transport, "account", None)
    if account is None:
        return
    try:
        spool = Spool(account)
    except OSError:  # no home directory
        return
    if spool.owner in _checked:
        return
    _checked.add(spool.owner)
    if spool.has_own():
        GuardedThread(lambda: _send(client, spool), name="umbel-flush", on_failure=lambda _: None).start()


def _send(client: Client, spool: Spool) -> None:
    with Client(transport=client.transport.clone()) as own:
        try:
            outcome = spool.send(own, wait=False)
        except (UmbelError, OSError) as error:
            logger.warning("calls of earlier programs in %s are not submitted yet: %s", spool.folder, error)
            return
    if outcome.submitted:
        logger.info("%d calls of earlier programs were submitted", outcome.submitted)
