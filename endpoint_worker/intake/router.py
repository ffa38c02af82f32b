"""Routes incoming bundles to the environment that their function needs."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from umbel.protocol.environment import Environment, of_function

from ..config.environments import Environments
from ..config.mounts import Mount
from ..config.policy import Rules
from ..environments import pip_settings
from ..environments.build import Builder, base_of
from ..environments.store import Built, Store
from ..runners.job import Job, Sink, ignore, refused, unstarted
from ..runners.options import RunnerOptionsBuilder
from ..runners.process import RunnerOptions
from ..sandbox import runtime_copy
from .build_queue import BuildQueue

log = logging.getLogger(__name__)

#: Number of functions whose environment is remembered.
REMEMBERED = 4096


class Router:
    """Determines the environment of a bundle's function and runs the bundle in it.

    ``cache``: the endpoint's cache directory; ``run``: receives bundles that can run; ``sink`` and
    ``notify``: as in ``Supervisor``.
    """

    def __init__(
        self,
        settings: Environments,
        rules: Rules,
        options_builder: RunnerOptionsBuilder,
        cache: Path,
        run: Callable[[Job], None],
        sink: Sink,
        notify: Callable[[list[Callable[[], None]]], None],
    ):
        self._settings, self._rules, self._cache = settings, rules, cache
        self._options_builder = options_builder
        self._run, self._sink, self._notify = run, sink, notify
        self._known: OrderedDict[str, Environment | None] = OrderedDict()
        self._runtime_copy: Path | None = options_builder.base.runtime_copy
        patience = settings.build_seconds + 60.0
        place = settings.place(cache)
        builder = Builder(settings, build_environment(options_builder.base.environment, os.environ))
        store = Store(
            place,
            most=settings.size,
            retry=settings.retry_seconds,
            patience=patience,
            settings=builder.digest,
        )
        self._build_queue = BuildQueue(store, builder, self._run_built, self._fail, self._return_job)

    @property
    def held(self) -> list[str]:
        """Ids of bundles whose environment is being built."""
        return self._build_queue.held

    def route(self, job: Job) -> None:
        """Run a bundle, or report why it cannot run; does not block."""
        try:
            environment = self._environment(job)
        except ValueError as error:
            self._fail(job, f"{error}: register the function with another environment")
            return
        if environment is None:
            job.options = self._options_builder.options(job.bundle)
            self._run(job)
            return
        refusal = self._rules.against_environment(environment)
        if refusal:
            log.warning("bundle %s of user %s: %s", job.bundle.id, job.bundle.user, refusal)
            self._end(job, "NOT_ALLOWED", refusal)
        elif self._options_builder.base.launcher.settings.image:
            self._fail(job, "the endpoint runs calls in a container image, which has its own packages")
        elif environment.name is not None:
            self._route_named(job, environment.name)
        else:
            # the bundle waits elsewhere: places in Celery's prefetch window are for bundles that can run
            accept, job.on_accept = job.on_accept, ignore
            self._notify([partial(accept, job.bundle.id, os.getpid())])
            self._build_queue.add(job, environment)

    def cancel(self, task_ids: Iterable[str]) -> None:
        """Skip these calls."""
        self._build_queue.cancel(task_ids)

    def release_unused(self, keys: Iterable[object]) -> None:
        """Release environments that no runner uses; ``keys``: those of all runners."""
        self._build_queue.release_unused(_innermost(key) for key in keys)

    def close(self) -> None:
        """Return waiting bundles."""
        self._build_queue.close()

    def _environment(self, job: Job) -> Environment | None:
        digest = job.bundle.function.sha256
        if digest not in self._known:
            self._known[digest] = of_function(job.function)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return self._known[digest]

    def _route_named(self, job: Job, name: str) -> None:
        python = self._settings.named.get(name)
        if python is None:
            there = ", ".join(sorted(self._settings.named)) or "none"
            self._fail(job, f"the site has no environment named '{name}'; available: {there}")
            return
        # a virtual or conda environment contains bin/python
        prefix = Path(python).parent.parent
        self._send(job, f"named:{name}", python, [prefix, base_of(prefix) or prefix])

    def _run_built(self, job: Job, built: Built) -> None:
        self._send(job, built.digest, built.python, [Path(built.folder), Path(built.base)])

    def _send(self, job: Job, key: str, python: str, directories: list[Path]) -> None:
        try:
            if self._runtime_copy is None:
                self._runtime_copy = runtime_copy.make(self._cache)
        except OSError as error:
            self._return_job(job, f"the files that runners need cannot be written: {error.strerror}")
            return
        job.options = self._options_builder.options(
            job.bundle, key, partial(with_environment, python, directories, self._runtime_copy)
        )
        job.on_broken = partial(self._build_queue.mark_broken, key)
        self._run(job)

    def _fail(self, job: Job, why: str) -> None:
        self._end(
            job, "ENVIRONMENT_ERROR", f"the function's environment is not available on this endpoint: {why}"
        )

    def _end(self, job: Job, code: str, message: str) -> None:
        outcomes = refused(job.bundle, code, message, job.cancelled)
        job.count(outcomes)
        self._sink(job.bundle.id, outcomes)
        self._notify([partial(job.on_accept, "", 0), job.on_done])

    def _return_job(self, job: Job, why: str) -> None:
        self._sink(job.bundle.id, unstarted(job.bundle, why, job.cancelled))
        self._notify([partial(job.on_accept, "", 0), job.on_done])


def _innermost(key: object) -> str:
    """The environment in a runner's key, which is (environment, user), or that with a number of slots."""
    while isinstance(key, tuple) and key:
        key = key[0]
    return str(key)


def with_environment(
    python: str, directories: Iterable[Path], runtime: Path, base: RunnerOptions
) -> RunnerOptions:
    """Options like ``base`` for the interpreter of an environment in ``directories``."""
    mounts = [
        Mount(directory, str(directory)) for directory in directories if str(directory) not in ("/", "/usr")
    ]
    environment = {name: value for name, value in base.environment.items() if name != "VIRTUAL_ENV"}
    path = f"{Path(python).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    return replace(
        base,
        python=(python,),
        runtime_copy=runtime,
        mounts=[*base.mounts, *mounts],
        environment={**environment, "PATH": path},
        for_environment=True,
    )


def build_environment(runners: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for building: those of runners, the site's own for pip and uv, and pip's settings for uv."""
    own = {name: value for name, value in environ.items() if name.startswith(("PIP_", "UV_"))}
    return {"UV_PYTHON_DOWNLOADS": "never", **pip_settings.for_uv(environ), **runners, **own}
