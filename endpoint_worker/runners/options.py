"""How to start the runners of an endpoint: from its settings, and per user and environment of a bundle."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from umbel.protocol.messages import Bundle

from ..config.directory import EndpointDirectory
from ..config.mounts import Mount
from ..config.settings import Settings, SettingsError
from ..sandbox import runtime_copy
from ..sandbox.launchers import launcher
from . import call_directories
from .process import RunnerOptions

Adapt = Callable[[RunnerOptions], RunnerOptions]
#: Maximum number of runner kinds that are cached.
MAX_KINDS = 1000
_DIRECTORY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\Z")


def runner_options(directory: EndpointDirectory, settings: Settings) -> RunnerOptions:
    """Return the default options for runners of an endpoint.

    Raises SettingsError if the sandbox would expose private files, OSError if the disk is full.
    """
    sandbox_launcher = launcher(settings.sandbox)
    call_directories.sweep(settings.work_folder(directory.path / "work"))
    options = RunnerOptions(
        directory=settings.work_folder(directory.path / "work"),
        environment=settings.runner_environment(os.environ),
        timeout=settings.timeout or None,
        memory=settings.memory or None,
        cpu=settings.cpu or None,
        output=settings.output,
        open_files=settings.open_files,
        recycle_calls=settings.recycle_calls,
        recycle_memory=settings.recycle_memory,
        launcher=sandbox_launcher,
        layout=settings.hardware.layout(settings.worker_slots),
        setup=settings.setup,
        keep_files=settings.keep_files,
        isolation=settings.isolation,
        warm_runners=settings.warm_runners,
    )
    if not sandbox_launcher.sandboxed:
        return options
    try:
        binds = settings.sandbox.mounts(directory.path)
    except ValueError as error:
        raise SettingsError(f"{directory.settings_file}, [sandbox]: {error}") from None
    python, mounts = ((settings.sandbox.python,), binds)
    if not settings.sandbox.image:
        python, mounts = ((sys.executable,), [*_interpreter(), *binds])
    return replace(
        options,
        directory=options.directory / "nobody",
        python=python,
        mounts=mounts,
        hidden=(directory.path.parent.parent,),
        runtime_copy=runtime_copy.make(directory.cache),
    )


def _interpreter() -> list[Mount]:
    """Mounts for this Python, wherever it is installed."""
    directories = dict.fromkeys((sys.base_prefix, sys.prefix))
    return [Mount(Path(directory), directory) for directory in directories if directory not in ("/", "/usr")]


class RunnerOptionsBuilder:
    """Creates runner options: one object for each kind of runner on a node."""

    def __init__(self, base: RunnerOptions):
        self.base = base
        self._work = base.directory.parent if base.launcher.sandboxed else base.directory
        self._known: dict[tuple[str, str], RunnerOptions] = {}

    def options(self, bundle: Bundle, environment: str = "", adapt: Adapt | None = None) -> RunnerOptions:
        """Return options for a bundle's runner: its own for each user; in a sandbox also its directory.

        ``environment``: key of the environment that the bundle needs; ``adapt``: adapts options to it.
        Without a sandbox, nothing in a runner depends on its user before its first bundle.
        """
        user, sandboxed = bundle.user, self.base.launcher.sandboxed
        known = self._known.get((environment, user))
        if known is None:
            if len(self._known) > MAX_KINDS:
                self._known.clear()  # runners keep their options; equal keys mean equal options
            fresh = (environment, "") if environment else self.base.key
            known = replace(self.base, key=(environment, user), fresh_key=None if sandboxed else fresh)
            if sandboxed:
                known = replace(known, directory=self._work / user_directory(user))
            known = self._known[environment, user] = adapt(known) if adapt is not None else known
        return known


def user_directory(user: str) -> str:
    """Name of a user's directory below the work directory."""
    if _DIRECTORY_NAME.match(user) and user != "nobody":
        return user
    return "user-" + hashlib.sha256(user.encode()).hexdigest()[:16]
