"""The child processes of an embedded federation: command, environment, and the order of their end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from umbel.protocol import version

from ..config.settings import Settings
from . import local_endpoint, redis_server
from .supervisor import Spec

#: The release tree: children are found in it whether or not it is installed.
ROOT = Path(__file__).resolve().parents[2]
#: Who stops when: first the endpoint, so that its last reports are taken; the broker last of all.
ENDPOINT_RANK, SERVICE_RANK, BROKER_RANK = range(3)
#: What each of them is given to stop, seconds; 10 in all. The endpoint lets running calls go on for 5.
ENDPOINT_GRACE, SERVICE_GRACE, BROKER_GRACE = 6.0, 2.5, 0.7


def environment(settings: Settings) -> dict[str, str]:
    """The environment of the children: this process's, with the settings that were given as flags.

    No secret is in it: the children read those from files of the home.
    """
    # an address or a token of another service must not lead the endpoint there
    environ = {
        name: value for name, value in os.environ.items() if name not in ("UMBEL_API_URL", "UMBEL_TOKEN")
    }
    paths = [str(ROOT), str(Path(version.__file__).resolve().parents[2]), environ.get("PYTHONPATH", "")]
    return {
        **environ,
        "UMBEL_HOME": str(settings.home),
        "UMBEL_HOST": settings.host,
        "UMBEL_PORT": str(settings.port),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
    }


def broker(settings: Settings) -> Spec:
    """The embedded redis-server; its files are written. Raises StartError."""
    argv = redis_server.prepare(settings.home)
    return Spec("redis", argv, settings.home / "redis", grace=BROKER_GRACE, rank=BROKER_RANK)


def services(settings: Settings, environ: Mapping[str, str]) -> list[Spec]:
    """API, collector and sweeper."""
    home = ["--home", str(settings.home)]
    python = [sys.executable, "-m"]
    return [
        Spec("web", [*python, "webapp.serve", *home], ROOT, environ, grace=SERVICE_GRACE, rank=SERVICE_RANK),
        Spec(
            "collect",
            [*python, "federation", "collect", *home],
            ROOT,
            environ,
            grace=SERVICE_GRACE,
            rank=SERVICE_RANK,
        ),
        Spec(
            "sweep",
            [*python, "federation", "sweep", *home],
            ROOT,
            environ,
            grace=SERVICE_GRACE,
            rank=SERVICE_RANK,
        ),
    ]


def provisioner(settings: Settings, environ: Mapping[str, str]) -> Spec:
    """What starts and ends the batch jobs of elastic endpoints."""
    argv = [sys.executable, "-m", "federation", "provision", "--home", str(settings.home)]
    return Spec("provision", argv, ROOT, environ, grace=SERVICE_GRACE, rank=SERVICE_RANK)


def endpoint(settings: Settings, environ: Mapping[str, str], workers: int) -> Spec:
    """The endpoint ``local``."""
    argv = local_endpoint.command("start", local_endpoint.NAME, "--slots", str(workers))
    # SIGTERM when we die: it has processes of its own to end and reports to keep
    return Spec(
        "endpoint", argv, ROOT, environ, death_signal=signal.SIGTERM, grace=ENDPOINT_GRACE, rank=ENDPOINT_RANK
    )


def flower(settings: Settings, environ: Mapping[str, str], port: int, *, controls: bool) -> Spec:
    """Flower, watching all endpoints; with ``controls`` also changing their workers."""
    argv = [sys.executable, "-m", "federation", "flower", "--home", str(settings.home), "--port", str(port)]
    argv += ["--controls"] if controls else []
    return Spec("flower", argv, ROOT, environ, grace=SERVICE_GRACE, rank=ENDPOINT_RANK)
