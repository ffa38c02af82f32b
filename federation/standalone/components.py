"""The child processes of an embedded federation: command, environment, and shutdown order."""

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

#: The release tree; children are started from it, whether or not it is installed.
ROOT = Path(__file__).resolve().parents[2]
#: Shutdown order: the endpoint first, so that its last reports are collected; the broker last.
ENDPOINT_RANK, SERVICE_RANK, BROKER_RANK = range(3)
#: Time to shut down, seconds; about 10 in total. The endpoint lets running calls continue for 5 s.
ENDPOINT_GRACE, SERVICE_GRACE, BROKER_GRACE = 6.0, 2.5, 0.7


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment of the children: this process's, plus the settings passed as flags.

    It contains no secrets; the children read those from files in the home directory.
    """
    # variables for another service must not make the endpoint connect to it
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
    """Write the files of the embedded redis-server; return its spec. Raises StartError."""
    argv = redis_server.prepare(settings.home)
    return Spec("redis", argv, settings.home / "redis", grace=BROKER_GRACE, rank=BROKER_RANK)


def services(settings: Settings, environ: Mapping[str, str]) -> list[Spec]:
    """Return the specs of API, collector and sweeper."""
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
    """Return the spec of the provisioner, which manages the batch jobs of elastic endpoints."""
    argv = [sys.executable, "-m", "federation", "provision", "--home", str(settings.home)]
    return Spec("provision", argv, ROOT, environ, grace=SERVICE_GRACE, rank=SERVICE_RANK)


def endpoint(settings: Settings, environ: Mapping[str, str], workers: int) -> Spec:
    """Return the spec of the endpoint ``local``."""
    argv = local_endpoint.command("start", local_endpoint.NAME, "--slots", str(workers))
    # SIGTERM when this process dies: the endpoint must stop its processes and save its reports
    return Spec(
        "endpoint", argv, ROOT, environ, death_signal=signal.SIGTERM, grace=ENDPOINT_GRACE, rank=ENDPOINT_RANK
    )


def flower(settings: Settings, environ: Mapping[str, str], port: int, *, controls: bool) -> Spec:
    """Return the spec of Flower for all endpoints; ``controls`` enables its buttons."""
    argv = [sys.executable, "-m", "federation", "flower", "--home", str(settings.home), "--port", str(port)]
    argv += ["--controls"] if controls else []
    return Spec("flower", argv, ROOT, environ, grace=SERVICE_GRACE, rank=ENDPOINT_RANK)
