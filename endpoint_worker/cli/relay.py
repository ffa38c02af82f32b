"""``umbel-endpoint relay``: forwards connections of compute nodes to the broker, on a login node.

A small process of the account, which the provisioner starts if it is not running. It exits by itself: without
connections for a quarter of an hour, when its endpoint's directory is removed, and with ``--stop``.
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import psutil

from umbel.system.files import home_directory

from ..config.directory import DirectoryError, EndpointDirectory
from ..config.identity import node_name
from .daemon import spawn

#: Number of ports to try after the requested one if it is in use.
PORTS = 20
#: Seconds: idle time before a relay exits, between two checks, to connect to the broker, and to start.
IDLE_TIMEOUT, CHECK_INTERVAL, CONNECT_TIMEOUT, START_TIMEOUT = 900.0, 3.0, 10.0, 20.0
#: Maximum number of concurrent connections; a worker has about five.
MAX_CONNECTIONS = 8192
#: Processes started by this one that outlive it.
_started: list[subprocess.Popen[bytes]] = []
#: Prefixes of network interfaces that only this machine can reach.
_VIRTUAL = ("docker", "br-", "veth", "virbr", "cni", "podman", "lxc")


@dataclass
class Relay:
    """Forwards connections to ``upstream`` (host, port); exits when ``file``, its state, is removed."""

    upstream: tuple[str, int]
    listen: Sequence[str]
    port: int
    file: Path
    _open: int = 0
    _used: float = field(default_factory=time.monotonic)

    async def serve(self) -> None:
        """Listen until the relay is no longer needed."""
        servers = await self._bind()
        about = {"pid": os.getpid(), "upstream": list(self.upstream), "port": self.port}
        draft = self.file.with_suffix(".new")
        draft.write_text(json.dumps({**about, "addresses": list(self.listen)}), encoding="utf-8")
        os.replace(draft, self.file)
        try:
            while self._needed():
                await asyncio.sleep(CHECK_INTERVAL)
        finally:
            for server in servers:
                server.close()

    def _needed(self) -> bool:
        if _state(self.file).get("pid") != os.getpid():
            return False
        return self._open > 0 or time.monotonic() - self._used < IDLE_TIMEOUT

    async def _bind(self) -> list[asyncio.Server]:
        """Listen on one port on all addresses: the requested one, or one of the next."""
        last: OSError | None = None
        for port in range(self.port, self.port + PORTS if self.port else 1):
            servers: list[asyncio.Server] = []
            try:
                for address in self.listen:
                    servers.append(await asyncio.start_server(self._forward, address, port))
                    port = servers[0].sockets[0].getsockname()[1]
            except OSError as error:
                last = error
                for server in servers:
                    server.close()
                continue
            self.port = port
            return servers
        raise DirectoryError(f"no free port from {self.port} on at {', '.join(self.listen)}: {last}")

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= MAX_CONNECTIONS:
            writer.close()
            return
        self._open += 1
        try:
            connecting = asyncio.open_connection(*self.upstream)
            there_reader, there_writer = await asyncio.wait_for(connecting, CONNECT_TIMEOUT)
            await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))
        except (OSError, asyncio.TimeoutError) as error:
            print(f"{time.strftime('%F %T')} {self.upstream}: {error!r}", file=sys.stderr, flush=True)
        finally:
            writer.close()
            self._open -= 1
            self._used = time.monotonic()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Forward bytes in one direction; close the sink at the end."""
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


def addresses() -> list[str]:
    """Return this machine's private IPv4 addresses, that of its host name first; loopback if none.

    Public addresses are used only on request.
    """
    found = []
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family == socket.AF_INET and not name.startswith(_VIRTUAL):
                address = ipaddress.ip_address(entry.address)
                if address.is_private and not address.is_loopback and not address.is_link_local:
                    found.append(entry.address)
    with suppress(OSError):
        own = socket.gethostbyname(socket.gethostname())
        found.sort(key=lambda address: address != own)
    return found or ["127.0.0.1"]


def ensure(
    directory: EndpointDirectory, upstream: tuple[str, int], listen: Sequence[str], port: int
) -> dict[str, Any]:
    """Ensure that a relay runs here; return its ``pid``, ``port``, ``addresses``. Raises
    DirectoryError.
    """
    file = _file(directory)
    known = _state(file)
    same = known.get("upstream") == list(upstream) and known.get("addresses") == list(listen)
    if _alive(file):
        if same:
            return known
        stop(directory)
    file.parent.mkdir(parents=True, exist_ok=True)
    directory.logs.mkdir(parents=True, exist_ok=True)
    words = [
        "relay",
        directory.name,
        "--serve",
        "--upstream",
        f"{upstream[0]}:{upstream[1]}",
        "--port",
        str(port),
    ]
    words += [word for address in listen for word in ("--listen", address)]
    process = spawn(words, directory.logs / f"{file.stem}.log")
    _started.append(process)
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        if _state(file).get("pid") == process.pid:
            return _state(file)
        time.sleep(0.02)
    process.kill()
    raise DirectoryError(f"the relay did not start: see {directory.logs / f'{file.stem}.log'}")


def stop(directory: EndpointDirectory) -> bool:
    """Stop this machine's relay; return False if there was none."""
    file = _file(directory)
    pid = _state(file).get("pid") if _alive(file) else None
    file.unlink(missing_ok=True)
    if not pid:
        return False
    with suppress(ProcessLookupError):
        os.kill(int(pid), signal.SIGTERM)
    deadline = time.monotonic() + 5.0
    while _alive(file) and time.monotonic() < deadline:
        time.sleep(0.02)
    _started[:] = [process for process in _started if process.poll() is None]
    return True


def _file(directory: EndpointDirectory) -> Path:
    # homes may be shared between machines, processes are not
    return directory.path / "run" / f"relay-{node_name()}.json"


def _state(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lock(file: Path) -> int:
    """Acquire the lock that a relay holds while it runs. Raises BlockingIOError."""
    lock = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _alive(file: Path) -> bool:
    try:
        os.close(_lock(file))
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@click.command()
@click.argument("name")
@click.option("--upstream", metavar="HOST:PORT", help="Address of the broker as seen from this machine.")
@click.option(
    "--listen", multiple=True, metavar="ADDRESS", help="Address to listen on (default: private addresses)."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port to listen on; if it is in use, one of the next.",
)
@click.option("--serve", is_flag=True, hidden=True)
@click.option("--stop", "ends", is_flag=True, help="Stop the relay.")
def relay(
    name: str, upstream: str | None, listen: tuple[str, ...], port: int, serve: bool, ends: bool
) -> None:
    """Ensure that a relay for endpoint NAME runs on this machine, and print its addresses (JSON)."""
    directory = EndpointDirectory(home_directory(), name)
    if ends:
        stop(directory)
        return
    host, _, number = (upstream or "").rpartition(":")
    if not host or not number.isdigit():
        raise click.UsageError("--upstream must be HOST:PORT")
    listen = listen or tuple(addresses())
    if not serve:
        click.echo(json.dumps(ensure(directory, (host, int(number)), listen, port)))
        return
    file = _file(directory)
    lock = _lock(file)
    try:
        asyncio.run(Relay((host, int(number)), listen, port, file).serve())
    finally:
        os.close(lock)
