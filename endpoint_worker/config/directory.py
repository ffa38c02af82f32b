"""An endpoint's directory: ``$UMBEL_HOME/endpoints/<name>``.

===================== ==================================================================
endpoint.toml         how this site runs calls
credentials.json      identity for service and broker (mode 0600)
signing.key           its Ed25519 private key, created here and never sent (mode 0600)
run/<node>.pid        process ids of running workers, locked while they run
run/incarnation       grows with each start of a node
spool/<node>/         reports that the broker has not accepted yet
cache/functions/      serialized functions
work/                 working directory of calls
logs/                 logs of workers started with --detach
===================== ==================================================================
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from umbel.protocol.errors import UmbelError
from umbel.protocol.names import valid_name
from umbel.system.files import write_private

from .identity import host, next_incarnation


class DirectoryError(UmbelError):
    """An endpoint's directory is missing, damaged or in use."""

    default_code = "BAD_REQUEST"


class _Held(NamedTuple):
    """Content of a pid file: the worker, its host, and the process that starts it again (0: none)."""

    pid: int
    host: str
    keeper: int = 0


@dataclass(frozen=True)
class Credentials:
    """Identity of an endpoint. ``service_key``: the service's Ed25519 public key (32 bytes)."""

    endpoint_id: str
    name: str
    api_url: str
    broker_url: str
    service_key: bytes


class EndpointDirectory:
    """Directory of the endpoint ``name`` below ``home``. Raises DirectoryError for invalid names."""

    def __init__(self, home: Path, name: str):
        if not valid_name(name):
            raise DirectoryError(
                f"'{name}' is not a valid endpoint name: use up to 63 letters, digits and _ . -, "
                "starting with a letter or digit"
            )
        self.name = name
        self.path = home / "endpoints" / name
        self.settings_file = self.path / "endpoint.toml"
        self.spool = self.path / "spool"
        self.cache = self.path / "cache"
        self.logs = self.path / "logs"
        self._credentials_file = self.path / "credentials.json"
        self._key_file = self.path / "signing.key"
        self._run = self.path / "run"

    def exists(self) -> bool:
        """True if the endpoint is configured here."""
        return self._credentials_file.exists()

    def credentials(self) -> Credentials:
        """Read the endpoint's credentials. Raises DirectoryError."""
        raw = self._read(self._credentials_file)
        try:
            record = json.loads(raw)
            key = base64.b64decode(record["service_key"], validate=True)
            if len(key) != 32:
                raise ValueError("service_key is not 32 bytes")
            return Credentials(
                record["endpoint_id"], record["name"], record["api_url"], record["broker_url"], key
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DirectoryError(f"{self._credentials_file} is damaged ({error}): {self._advice()}") from None

    def signing_key(self) -> bytes:
        """Read the endpoint's private key. Raises DirectoryError."""
        key = self._read(self._key_file)
        if len(key) != 32:
            raise DirectoryError(f"{self._key_file} is damaged: {self._advice()}")
        return key

    def write(self, credentials: Credentials, signing_key: bytes, settings: str) -> None:
        """Write a new endpoint; private files are never readable by others. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        record: dict[str, Any] = {
            "endpoint_id": credentials.endpoint_id,
            "name": credentials.name,
            "api_url": credentials.api_url,
            "broker_url": credentials.broker_url,
            "service_key": base64.b64encode(credentials.service_key).decode(),
        }
        write_private(self._key_file, signing_key)
        if not self.settings_file.exists():
            self.settings_file.write_text(settings, encoding="utf-8")
        # last, because the endpoint exists as soon as this file does
        write_private(self._credentials_file, (json.dumps(record, indent=1) + "\n").encode())

    @contextmanager
    def lock(self, node: str, *, inherited: int | None = None, keeper: int = 0) -> Iterator[int]:
        """Lock a node's pid file; yield the descriptor. Raises DirectoryError if another process holds it.

        ``inherited``: a descriptor that holds the lock, of the process ``keeper``.
        """
        fd = self._lock(node) if inherited is None else inherited
        os.set_inheritable(fd, False)
        try:
            self.record(fd, os.getpid(), keeper)
            try:
                yield fd
            finally:
                # a keeper decides whether the node goes on
                if inherited is None:
                    os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    def record(self, fd: int, pid: int, keeper: int) -> None:
        """Write a node's process into its pid file, which is open and locked as ``fd``."""
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{pid} {host()} {keeper}\n".encode(), 0)

    def running(self) -> dict[str, int]:
        """Nodes that run on this machine: name → process id."""
        found = {}
        for file in sorted(self._run.glob("*.pid")):
            # a home on a shared file system also contains the nodes of other machines
            if _locked(file) and (held := _read(file)) is not None and held.host == host():
                found[file.stem] = held.pid
        return found

    def keeper_of(self, node: str) -> int:
        """Return the process that starts a node of this machine again if it ends unexpectedly; 0: none."""
        held = _read(self._run / f"{node}.pid")
        return held.keeper if held is not None and held.host == host() else 0

    def locked(self, node: str) -> bool:
        """Return whether a process has locked a node, as far as the file system shows."""
        return _locked(self._run / f"{node}.pid")

    def host_of(self, node: str) -> str:
        """Return the host of a node that runs or was killed, as in ``identity.host``; otherwise ""."""
        held = _read(self._run / f"{node}.pid")
        return held.host if held is not None else ""

    def next_incarnation(self) -> int:
        """Return a number greater than that of all earlier starts."""
        return next_incarnation(self._run / "incarnation")

    def forget(self, node: str) -> None:
        """Remove the files of a node that will not return, unless it has unsent reports."""
        try:
            (self.spool / node).rmdir()
            (self._run / f"{node}.pid").unlink()
        except OSError:
            pass  # not empty, or already removed

    def _lock(self, node: str) -> int:
        self._run.mkdir(parents=True, exist_ok=True)
        file = self._run / f"{node}.pid"
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise DirectoryError(
                f"endpoint '{self.name}' is already running: {_owner(file)}; stop it with "
                f"'umbel-endpoint stop {self.name}', or start another node of it with --node NAME"
            ) from None
        return fd

    def remove(self) -> None:
        """Delete the directory."""
        shutil.rmtree(self.path)

    def _read(self, file: Path) -> bytes:
        try:
            return file.read_bytes()
        except FileNotFoundError:
            raise DirectoryError(
                f"endpoint '{self.name}' is not configured in {self.path.parent}: {self._advice()}"
            ) from None
        except OSError as error:
            raise DirectoryError(f"{file} cannot be read: {error.strerror}") from None

    def _advice(self) -> str:
        return (
            f"run 'umbel-endpoint configure {self.name}', or set UMBEL_HOME to the directory that contains it"
        )


def configured(home: Path) -> list[EndpointDirectory]:
    """Return all endpoints of a home, by name."""
    directory = home / "endpoints"
    if not directory.is_dir():
        return []
    names = sorted(path.name for path in directory.iterdir() if path.is_dir() and valid_name(path.name))
    return [found for found in (EndpointDirectory(home, name) for name in names) if found.exists()]


def _read(file: Path) -> _Held | None:
    try:
        pid, where, keeper = [*file.read_text().split(), "0"][:3]
        return _Held(int(pid), where, int(keeper))
    except (OSError, ValueError):
        return None


def _owner(file: Path) -> str:
    held = _read(file)
    if held is None:
        return "process ?"
    return f"process {held.pid}" + (f" on {held.host.partition('/')[0]}" if held.host != host() else "")


def _locked(file: Path) -> bool:
    try:
        fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
