"""The directory in which calls start: empty for each call, and the runner's own.

A directory is used again as long as calls leave it empty, which one ``stat`` shows: its modification time is
set to 1970, and creating or removing an entry changes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..ipc.shared_memory import SUCCEEDED, WROTE

#: Below the work directory: where runners have their directories, and where those of calls are kept.
RUNNERS, KEPT = ".calls", "kept"
#: Environment variable with the work directory, which all calls of an endpoint share.
WORK_VARIABLE = "UMBEL_WORK"


class Kept(NamedTuple):
    """Which directories of calls are kept: ``when`` "failed", "always", or None; by which names."""

    when: str | None
    names: Sequence[str]

    def name(self, index: int, status: int) -> str | None:
        """Return the name for the directory of a call, or None."""
        failed = status & ~WROTE != SUCCEEDED
        return self.names[index] if failed or self.when == "always" else None


class CallDirectory:
    """The current directory of this process while calls run.

    ``name``: name of the runner's own directory below the work directory, which is the current directory now.
    Raises OSError.
    """

    def __init__(self, name: str):
        self.work = os.getcwd()
        self._root = os.path.join(self.work, RUNNERS, name)
        self._number = 0
        self.path = ""
        self._identity: tuple[Any, ...] = ()
        self._next()

    def _next(self) -> None:
        """Continue in a new directory."""
        self._number += 1
        self.path = os.path.join(self._root, str(self._number))
        self._enter()

    def _enter(self) -> None:
        os.makedirs(self.path, exist_ok=True)
        os.chdir(self.path)
        os.utime(self.path, (0, 0))
        # inode, device and number of links
        self._identity = os.stat(".")[1:4]

    def used(self) -> bool:
        """Return whether the call has left something here, or has moved; about a microsecond."""
        try:
            found = os.stat(".")
        except OSError:
            return True
        # by index, which takes half the time: the modification time is 0 while nothing has happened
        return found[8] != 0 or found[1:4] != self._identity

    def renew(self, kept_as: str | None = None) -> None:
        """Provide an empty directory again. ``kept_as``: move the content to this name below ``kept``.

        Raises OSError if the system refuses a new directory.
        """
        os.chdir(self.work)
        if kept_as is not None:
            keep(self.path, self.work, kept_as)
        try:
            _clear(self.path)
            self._enter()
        except OSError:
            # the call has locked or replaced it: leave it to the worker, which removes it after the runner
            self._next()


def keep(path: str, work: str, name: str) -> None:
    """Move a directory to ``kept`` below the work directory, unless it is empty. Never raises."""
    try:
        if not os.listdir(path):
            return
        target = os.path.join(work, KEPT, os.path.basename(name))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        while os.path.lexists(target):
            target += "+"  # an earlier attempt of the same call
        os.rename(path, target)
    except OSError:
        pass  # it does not exist any more, or the disk is full


def _clear(path: str) -> None:
    """Remove what a directory contains. Raises OSError."""
    try:
        entries = list(os.scandir(path))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
