"""A PostgreSQL server for the tests: private directory, free port, stopped by its process id."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.wait import wait_until

#: Accounts that the server may run under when the tests run as root, which PostgreSQL refuses.
ACCOUNTS = ("postgres", "nobody")
#: Seconds that starting and stopping may take.
PATIENCE = 30.0
MISSING = (
    "PostgreSQL is not installed: no initdb on PATH or under /usr/lib/postgresql."
    " 'make e2e' installs it on Debian and Ubuntu when run as root."
)


def binaries() -> Path | None:
    """Folder of initdb and postgres, the newest release there is; None when there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: float(file.parts[-3]))
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    return Path(on_path).resolve().parent if on_path else None


def require_binaries() -> Path:
    """As ``binaries``; skips the test where there are none, and fails it where CI=true."""
    found = binaries()
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return found


class Server:
    """A running server; its socket lies in ``folder``, and it listens on nothing else."""

    def __init__(self, folder: Path, account: str):
        self.folder = folder
        self.account = account
        self._made = 0

    def url(self, database: str) -> str:
        """SQLAlchemy URL of one of its databases."""
        return f"postgresql+psycopg://{self.account}@/{database}?host={self.folder}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """A connection that commits each statement."""
        return psycopg.connect(
            f"host={self.folder} user={self.account} dbname={database}", autocommit=True, connect_timeout=5
        )

    def new_database(self, template: str = "template1") -> str:
        """Make a database like ``template``; return its name."""
        self._made += 1
        name = f"test_{os.getpid()}_{self._made}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return name

    def drop(self, database: str) -> None:
        """Delete a database, whoever is still connected to it."""
        with self.connect() as connection:
            connection.execute(f"DROP DATABASE {database} WITH (FORCE)".encode())


@contextmanager
def running_server(durable: bool = False) -> Iterator[Server]:
    """Start a server, and stop it at the end. Skips or fails where PostgreSQL is missing (see above).

    ``durable``: as in production, a commit is on disk before it is confirmed, and tables are vacuumed.
    """
    programs = require_binaries()
    account = pwd.getpwuid(os.getuid()).pw_name if os.getuid() else _unprivileged()
    # short: the path of a socket has at most 107 characters
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        if not os.getuid():
            shutil.chown(folder, account)
        _make(programs, folder, account)
        with _running(programs, folder, account, durable) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> str:
    for name in ACCOUNTS:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise AssertionError(f"PostgreSQL does not run as root, and none of the accounts {ACCOUNTS} exists")


def _as(account: str) -> dict[str, Any]:
    """Arguments that let a subprocess run under the account."""
    if os.getuid():
        return {}
    entry = pwd.getpwnam(account)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _make(programs: Path, folder: Path, account: str) -> None:
    command = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", account, "-A", "trust"]
    command += ["--no-sync", "--encoding", "UTF8", "--locale", "C.UTF-8"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE * 2, cwd=folder, **_as(account)
    )
    assert done.returncode == 0, f"initdb failed: {done.stdout}{done.stderr}"


@contextmanager
def _running(programs: Path, folder: Path, account: str, durable: bool) -> Iterator[Server]:
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(folder),
        "fsync": "on" if durable else "off",
        # its workers come and go, and would look like something that a test has left behind
        "autovacuum": "on" if durable else "off",
        "max_connections": "200",
        "deadlock_timeout": "200ms",
    }
    command = [str(programs / "postgres"), "-D", str(folder / "data")]
    command += [f"--{name}={value}" for name, value in options.items()]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder,
            start_new_session=True, **_as(account),
        )  # fmt: skip
    server = Server(folder, account)
    try:
        wait_until(
            lambda: _answers(server, process, folder), PATIENCE, what="PostgreSQL to accept connections"
        )
        yield server
    finally:
        process.send_signal(signal.SIGINT)  # a fast shutdown: connections are cut, nothing is lost
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(PATIENCE)


def _answers(server: Server, process: subprocess.Popen[bytes], folder: Path) -> bool:
    assert process.poll() is None, f"PostgreSQL ended: {(folder / 'log').read_text()}"
    try:
        server.connect().close()
    except psycopg.OperationalError:
        return False
    return True
