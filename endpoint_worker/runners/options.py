"""How the runners of an endpoint are started: by its settings, and for whom and what a bundle is."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from umbel.protocol.messages import Bundle

from ..config.directory import EndpointFolder
from ..config.mounts import Mount
from ..config.settings import Settings, SettingsError
from ..sandbox import runtime_copy
from ..sandbox.launchers import launcher
from .process import RunnerOptions

Equip = Callable[[RunnerOptions], RunnerOptions]
#: So many kinds of runners are remembered.
MOST_KINDS = 1000
_FOLDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\Z")


def runner_options(folder: EndpointFolder, settings: Settings) -> RunnerOptions:
    """How a runner of an endpoint is started, when nothing is known of what it shall run.

    Raises SettingsError when the sandbox would show what it must hide, OSError when the disk is full.
    """
    closed = launcher(settings.sandbox)
    options = RunnerOptions(
        folder=settings.work_folder(folder.path / "work"),
        environment=settings.runner_environment(os.environ),
        timeout=settings.timeout or None,
        memory=settings.memory or None,
        cpu=settings.cpu or None,
        output=settings.output,
        open_files=settings.open_files,
        recycle_calls=settings.recycle_calls,
        recycle_memory=settings.recycle_memory,
        launcher=closed,
        layout=settings.hardware.layout(settings.worker_slots),
        setup=settings.setup,
    )
    if not closed.closed:
        return options
    try:
        binds = settings.sandbox.mounts(folder.path)
    except ValueError as error:
        raise SettingsError(f"{folder.settings_file}, [sandbox]: {error}") from None
    python, mounts = ((settings.sandbox.python,), binds)
    if not settings.sandbox.image:
        python, mounts = ((sys.executable,), [*_interpreter(), *binds])
    return replace(
        options,
        folder=options.folder / "nobody",
        python=python,
        mounts=mounts,
        hidden=(folder.path.parent.parent,),
        kit=runtime_copy.make(folder.cache),
    )


def _interpreter() -> list[Mount]:
    """What this Python consists of, wherever it is installed."""
    folders = dict.fromkeys((sys.base_prefix, sys.prefix))
    return [Mount(Path(folder), folder) for folder in folders if folder not in ("/", "/usr")]


class Places:
    """Options of runners: one object for each kind of runner that a node has."""

    def __init__(self, base: RunnerOptions):
        self.base = base
        self._work = base.folder.parent if base.launcher.closed else base.folder
        self._known: dict[tuple[str, str], RunnerOptions] = {}

    def options(self, bundle: Bundle, environment: str = "", equip: Equip | None = None) -> RunnerOptions:
        """How a runner for this bundle is started: in a sandbox each user's are apart, with their folder.

        ``environment``: key of one that the bundle needs; ``equip``: fits options out for it.
        """
        user = bundle.user if self.base.launcher.closed else ""
        if not environment and not self.base.launcher.closed:
            return self.base
        known = self._known.get((environment, user))
        if known is None:
            if len(self._known) > MOST_KINDS:
                self._known.clear()  # runners keep theirs; equal keys mean equal options
            folder = self._work / user_folder(user) if self.base.launcher.closed else self.base.folder
            known = replace(self.base, folder=folder, key=(environment, user))
            known = self._known[environment, user] = equip(known) if equip is not None else known
        return known


def user_folder(user: str) -> str:
    """Name of a user's folder below the work folder."""
    if _FOLDER_NAME.match(user) and user != "nobody":
        return user
    return "user-" + hashlib.sha256(user.encode()).hexdigest()[:16]
