"""Where bundles come in: those whose function needs an environment are led to it."""

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
from ..environments.build import Builder, base_of
from ..environments.store import Built, Store
from ..runners.job import Job, Sink, nothing, refused, unstarted
from ..runners.options import Places
from ..runners.process import RunnerOptions
from ..sandbox import runtime_copy
from .build_queue import Desk

log = logging.getLogger(__name__)

#: Functions whose environment is remembered.
REMEMBERED = 4096


class Reception:
    """Finds out what a bundle's function needs and has it run there.

    ``cache``: the endpoint's cache; ``run``: takes a bundle that can run; ``sink`` and ``tell``: as the
    supervisor's.
    """

    def __init__(
        self,
        settings: Environments,
        rules: Rules,
        places: Places,
        cache: Path,
        run: Callable[[Job], None],
        sink: Sink,
        tell: Callable[[list[Callable[[], None]]], None],
    ):
        self._settings, self._rules, self._places, self._cache = settings, rules, places, cache
        self._run, self._sink, self._tell = run, sink, tell
        self._known: OrderedDict[str, Environment | None] = OrderedDict()
        self._kit: Path | None = places.base.kit
        patience = settings.build_seconds + 60.0
        place = settings.place(cache)
        store = Store(place, most=settings.size, retry=settings.retry_seconds, patience=patience)
        builder = Builder(settings, build_environment(places.base.environment, os.environ))
        self._desk = Desk(store, builder, self._go, self._fail, self._back)

    @property
    def held(self) -> list[str]:
        """Ids of the bundles whose environment is being built."""
        return self._desk.held

    def take(self, job: Job) -> None:
        """Have a bundle run, or say why it cannot; does not wait."""
        try:
            environment = self._environment(job)
        except ValueError as error:
            self._fail(job, f"{error}: register the function with another environment")
            return
        if environment is None:
            job.options = self._places.options(job.bundle)
            self._run(job)
            return
        refusal = self._rules.against_environment(environment)
        if refusal:
            log.warning("bundle %s of %s: %s", job.bundle.id, job.bundle.user, refusal)
            self._end(job, "NOT_ALLOWED", refusal)
        elif self._places.base.launcher.settings.image:
            self._fail(job, "the endpoint runs calls in an image of its site, which has its own packages")
        elif environment.name is not None:
            self._take_named(job, environment.name)
        else:
            # the bundle waits apart: its place in Celery's window is for those that can run
            accept, job.on_accept = job.on_accept, nothing
            self._tell([partial(accept, job.bundle.id, os.getpid())])
            self._desk.take(job, environment)

    def cancel(self, task_ids: Iterable[str]) -> None:
        """These calls shall not run."""
        self._desk.cancel(task_ids)

    def tidy(self, keys: Iterable[object]) -> None:
        """Let go of environments that no runner has; ``keys``: those of all runners."""
        self._desk.tidy(_innermost(key) for key in keys)

    def close(self) -> None:
        """Give back what waits."""
        self._desk.close()

    def _environment(self, job: Job) -> Environment | None:
        digest = job.bundle.function.sha256
        if digest not in self._known:
            self._known[digest] = of_function(job.function)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return self._known[digest]

    def _take_named(self, job: Job, name: str) -> None:
        python = self._settings.named.get(name)
        if python is None:
            there = ", ".join(sorted(self._settings.named)) or "none"
            self._fail(job, f"the site has no environment named '{name}'; it has: {there}")
            return
        # a virtual environment's or conda's folder holds bin/python
        prefix = Path(python).parent.parent
        self._send(job, f"named:{name}", python, [prefix, base_of(prefix) or prefix])

    def _go(self, job: Job, built: Built) -> None:
        self._send(job, built.digest, built.python, [Path(built.folder), Path(built.base)])

    def _send(self, job: Job, key: str, python: str, folders: list[Path]) -> None:
        try:
            if self._kit is None:
                self._kit = runtime_copy.make(self._cache)
        except OSError as error:
            self._back(job, f"there is no room for what runners need: {error.strerror}")
            return
        job.options = self._places.options(job.bundle, key, partial(equip, python, folders, self._kit))
        job.on_broken = partial(self._desk.broken, key)
        self._run(job)

    def _fail(self, job: Job, why: str) -> None:
        self._end(job, "ENVIRONMENT_ERROR", f"the function's environment cannot be had here: {why}")

    def _end(self, job: Job, code: str, message: str) -> None:
        self._sink(job.bundle.id, refused(job.bundle, code, message, job.cancelled))
        self._tell([partial(job.on_accept, "", 0), job.on_done])

    def _back(self, job: Job, why: str) -> None:
        self._sink(job.bundle.id, unstarted(job.bundle, why, job.cancelled))
        self._tell([partial(job.on_accept, "", 0), job.on_done])


def _innermost(key: object) -> str:
    """The environment in a runner's key: (environment, user), or that with a number of slots."""
    while isinstance(key, tuple) and key:
        key = key[0]
    return str(key)


def equip(python: str, folders: Iterable[Path], kit_folder: Path, base: RunnerOptions) -> RunnerOptions:
    """Options like ``base`` for the interpreter of an environment that lies in ``folders``."""
    mounts = [Mount(folder, str(folder)) for folder in folders if str(folder) not in ("/", "/usr")]
    environment = {name: value for name, value in base.environment.items() if name != "VIRTUAL_ENV"}
    path = f"{Path(python).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    return replace(
        base,
        python=(python,),
        kit=kit_folder,
        mounts=[*base.mounts, *mounts],
        environment={**environment, "PATH": path},
        equipped=True,
    )


def build_environment(runners: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for building: those of runners, and the site's own for pip and uv."""
    own = {name: value for name, value in environ.items() if name.startswith(("PIP_", "UV_"))}
    return {"UV_PYTHON_DOWNLOADS": "never", **runners, **own}
