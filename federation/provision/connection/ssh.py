"""One SSH connection to a site with a pinned host key, for commands and files; reopened when it breaks.

Commands are sent to the standard input of ``/bin/sh`` between two markers. This works with any login shell,
removes the output of start-up files, and needs one level of quoting only.
"""

from __future__ import annotations

import re
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import paramiko

from umbel.protocol.errors import BadRequest

from .keys import authenticate
from .output import read_all
from .shell import TIMEOUT, CommandResult, SiteError, Unreachable

#: Seconds to connect and to authenticate; seconds between keep-alive messages.
CONNECT_TIMEOUT, KEEPALIVE = 15.0, 20
#: Most concurrent commands on one connection: sshd allows 10 sessions (MaxSessions), one is used for files.
SESSIONS = 4
#: Errors that paramiko may raise.
_ERRORS = (paramiko.SSHException, OSError, EOFError)
_ADDRESS = re.compile(
    r"(?:ssh://)?(?P<user>[A-Za-z_][A-Za-z0-9_.-]{0,63})@"
    r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9a-fA-F:.]+\])(?::(?P<port>[0-9]{1,5}))?/?\Z"
)


@dataclass(frozen=True)
class Address:
    """An account on a host: ``ssh://user@host:port``."""

    user: str
    host: str
    port: int = 22

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an address. Raises BadRequest."""
        found = _ADDRESS.match(text)
        if not found or int(found["port"] or 22) not in range(1, 65536):
            raise BadRequest(f"site: invalid address '{text[:80]}': use ssh://user@host:port")
        return cls(found["user"], found["host"].strip("[]"), int(found["port"] or 22))

    def __str__(self) -> str:
        return f"ssh://{self.user}@{self.host}:{self.port}"


@dataclass(frozen=True)
class Hop:
    """A jump host, or the site itself. ``host_key``: type and base64, as in known_hosts."""

    address: Address
    host_key: str


def host_key(address: Address, timeout: float = CONNECT_TIMEOUT) -> str:
    """Return the key that a host presents, for a user to confirm. Raises Unreachable."""
    try:
        transport = paramiko.Transport(socket.create_connection((address.host, address.port), timeout))
        try:
            transport.start_client(timeout=timeout)
            key = transport.get_remote_server_key()
            return f"{key.get_name()} {key.get_base64()}"
        finally:
            transport.close()
    except _ERRORS as error:
        raise Unreachable(f"cannot connect to {address}: {error}") from None


class SSHShell:
    """One account on one machine over one shared connection. ``hops``: jump hosts, then the machine itself.

    ``keys``: private keys to try; if empty, those of this account's SSH agent.
    """

    def __init__(self, hops: Sequence[Hop], keys: Sequence[paramiko.PKey] = ()):
        self.address = hops[-1].address
        self._hops = list(hops)
        self._keys = list(keys)
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(SESSIONS)
        self._transports: list[paramiko.Transport] = []
        self._sftp: paramiko.SFTPClient | None = None

    def run(self, words: Sequence[str], *, input: str = "", timeout: float = TIMEOUT) -> CommandResult:
        """Run a command and wait until it ends. Raises Unreachable."""
        deadline = time.monotonic() + timeout
        mark = secrets.token_hex(8)
        command = shlex.join(words)
        given = f"<<'{mark}-input'\n{input}\n{mark}-input" if input else "</dev/null"
        text = (
            f"printf '\\n%s\\n' {mark}-begin\n{command} {given}\ncode=$?\n"
            f"printf '\\n%s %d\\n' {mark}-end \"$code\"\nexit 0\n"
        )
        if not self._slots.acquire(timeout=timeout):
            raise Unreachable(f"{self.address}: too many concurrent commands")
        try:
            out, err = self._execute(text.encode(), deadline)
        except _ERRORS as error:
            self.close()
            raise Unreachable(f"{self.address}: no answer to '{command[:60]}': {_describe(error)}") from None
        finally:
            self._slots.release()
        found = re.search(rf"{mark}-begin\n(.*)\n{mark}-end (\d+)\n", out, re.DOTALL)
        if not found:
            end = (err or out).strip()[-200:]
            raise Unreachable(f"{self.address}: incomplete output of '{command[:60]}': {end!r}")
        return CommandResult(int(found[2]), found[1], err)

    def _execute(self, text: bytes, deadline: float) -> tuple[str, str]:
        channel = self._session()
        try:
            channel.settimeout(max(1.0, deadline - time.monotonic()))
            channel.exec_command("exec /bin/sh")
            channel.sendall(text)
            channel.shutdown_write()
            return read_all(channel, deadline)
        finally:
            channel.close()

    def _session(self) -> paramiko.Channel:
        """Open a session; if the existing connection fails, open it on a new connection."""
        with self._lock:
            fresh = not self._alive()
            transport = self._connect()
            try:
                return transport.open_session(timeout=CONNECT_TIMEOUT)
            except _ERRORS:
                if fresh:
                    raise
                self._close()
                return self._connect().open_session(timeout=CONNECT_TIMEOUT)

    def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Write a file atomically; create its directory. Raises SiteError, Unreachable."""
        draft = f"{path}.{secrets.token_hex(4)}"
        folder = path.rpartition("/")[0]
        if folder:
            made = self.run(["mkdir", "-p", "-m", "700", "--", folder])
            if made.code != 0:
                raise SiteError(f"{self.address}: {made.message}")
        with self._lock:
            sftp = self._files()
            try:
                with sftp.open(draft, "w") as file:
                    file.chmod(mode)  # before it has any content
                    file.set_pipelined(True)
                    file.write(data)
                sftp.posix_rename(draft, path)
            except OSError as error:
                raise SiteError(f"{self.address}: cannot write {path}: {_describe(error)}") from None
            except (paramiko.SSHException, EOFError) as error:
                self._close()
                raise Unreachable(f"{self.address}: cannot write {path}: {_describe(error)}") from None

    def read(self, path: str, tail: int = 65536) -> bytes:
        """Return the last ``tail`` bytes of a file; b"" if it does not exist. Raises Unreachable."""
        with self._lock:
            sftp = self._files()
            try:
                with sftp.open(path, "r") as file:
                    size = file.stat().st_size or 0
                    file.seek(max(0, size - tail))
                    return bytes(file.read(tail))
            except OSError:
                return b""
            except (paramiko.SSHException, EOFError) as error:
                self._close()
                raise Unreachable(f"{self.address}: cannot read {path}: {_describe(error)}") from None

    def forward(self, bind: str, port: int, handler: Any) -> tuple[paramiko.Transport, int]:
        """Listen on ``bind:port`` of the site (0: any port); pass connections to ``handler(channel, ...)``.

        Returns the SSH connection in use and the port. Raises Unreachable.
        """
        with self._lock:
            try:
                transport = self._connect()
                return transport, transport.request_port_forward(bind, port, handler)
            except _ERRORS as error:
                raise Unreachable(
                    f"{self.address}: cannot open a reverse tunnel: {_describe(error)}"
                ) from None

    def close(self) -> None:
        """Close the connection; the next use opens a new one."""
        with self._lock:
            self._close()

    def _alive(self) -> bool:
        return bool(self._transports) and all(transport.is_active() for transport in self._transports)

    def _connect(self) -> paramiko.Transport:
        if self._alive():
            return self._transports[-1]
        self._close()
        try:
            for hop in self._hops:
                self._transports.append(self._open(hop))
        except BaseException:
            self._close()
            raise
        return self._transports[-1]

    def _open(self, hop: Hop) -> paramiko.Transport:
        target = (hop.address.host, hop.address.port)
        if self._transports:
            before = self._transports[-1]
            stream: Any = before.open_channel(
                "direct-tcpip", target, ("127.0.0.1", 0), timeout=CONNECT_TIMEOUT
            )
        else:
            stream = socket.create_connection(target, CONNECT_TIMEOUT)
        transport = paramiko.Transport(stream)
        try:
            transport.banner_timeout = transport.auth_timeout = CONNECT_TIMEOUT
            transport.set_keepalive(KEEPALIVE)
            kind, _, _ = hop.host_key.partition(" ")
            # ask a server with several keys for the pinned one
            wanted = ["rsa-sha2-512", "rsa-sha2-256"] if kind == "ssh-rsa" else [kind]
            transport.get_security_options().key_types = wanted
            transport.start_client(timeout=CONNECT_TIMEOUT)
            shown = transport.get_remote_server_key()
            if f"{shown.get_name()} {shown.get_base64()}" != hop.host_key:
                raise paramiko.SSHException(
                    f"the host key of {hop.address.host} differs from the pinned one: the connection may be "
                    "intercepted, or the host was reinstalled; verify the key with the site, then confirm it"
                )
            authenticate(transport, hop.address.user, self._keys)
        except BaseException:
            transport.close()
            raise
        return transport

    def _files(self) -> paramiko.SFTPClient:
        try:
            transport = self._connect()
            if self._sftp is None:
                self._sftp = paramiko.SFTPClient.from_transport(transport)
            assert self._sftp is not None
            self._sftp.get_channel().settimeout(TIMEOUT)
            return self._sftp
        except _ERRORS as error:
            self._close()
            raise Unreachable(f"{self.address}: {_describe(error)}") from None

    def _close(self) -> None:
        self._sftp = None
        for transport in reversed(self._transports):
            transport.close()
        self._transports.clear()


def _describe(error: BaseException) -> str:
    return str(error) or type(error).__name__
