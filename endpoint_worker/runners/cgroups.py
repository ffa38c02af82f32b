"""Linux control groups: a memory limit for a call together with everything that it starts.

Where this process may create groups below its own, each runner gets one; elsewhere ``RLIMIT_AS`` is used,
which counts reserved instead of used memory, separately for each process. Both versions of the interface are
supported (kernel documentation, ``admin-guide/cgroup-v2`` and ``admin-guide/cgroup-v1/memory``). In version 2
only groups without processes may limit the groups below them, so the worker first moves into a child group of
its own, unless other processes share its group.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from .process_tree import descendants

log = logging.getLogger(__name__)

PROC = Path("/proc")
#: Name of the worker's own group (version 2), and prefix of the runners' groups.
WORKER, RUNNER = "umbel-worker", "umbel-runner-"
_numbers = itertools.count()


@dataclass(frozen=True)
class _Files:
    """File names and values of one version."""

    limit: str
    none: str
    events: str
    setup: tuple[tuple[str, str], ...]


_VERSIONS = {
    1: _Files("memory.limit_in_bytes", "-1", "memory.oom_control", (("memory.swappiness", "0"),)),
    2: _Files("memory.max", "max", "memory.events", (("memory.swap.max", "0"), ("memory.oom.group", "1"))),
}


class Group:
    """The group of one runner."""

    def __init__(self, parent: Path, version: int):
        """Create the group. Raises OSError."""
        self._files = _VERSIONS[version]
        self.directory = parent / f"{RUNNER}{os.getpid()}-{next(_numbers)}"
        self.directory.mkdir()
        self._limit: int | None = None
        self._kills = 0
        for name, value in self._files.setup:
            try:
                self._write(name, value)
            except OSError:
                # older kernels and machines without swap do not have all of these
                pass

    def enter(self) -> list[str]:
        """Return the words to put before a command so that it runs in the group."""
        return ["sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', str(self.directory)]

    def limit(self, size: int | None) -> bool:
        """Limit the memory of the whole group to ``size`` bytes (None: no limit); return success."""
        if size is not None:
            # only a limited group can exceed a limit: a bundle without one needs no read of the counter
            self._kills = self._count()
        if size == self._limit:
            return True
        try:
            self._write(self._files.limit, self._files.none if size is None else str(size))
        except OSError as error:
            log.warning("control group %s: cannot set a limit of %s bytes: %s", self.directory, size, error)
            return False
        self._limit = size
        return True

    @property
    def limited(self) -> bool:
        """True while there is a limit."""
        return self._limit is not None

    def exceeded(self) -> bool:
        """Return whether the kernel has killed a process of the group since the limit was set."""
        return self.limited and self._count() > self._kills

    def close(self) -> bool:
        """Remove the group; return False while one of its processes is still ending."""
        try:
            self.directory.rmdir()
        except OSError:
            return not self.directory.exists()
        return True

    def _write(self, name: str, value: str) -> None:
        (self.directory / name).write_text(value)

    def _count(self) -> int:
        try:
            lines = (self.directory / self._files.events).read_text().splitlines()
            return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
        except (OSError, ValueError):
            return 0


class Cgroups:
    """Creates groups for runners below ``parent``; ``version``: 1 or 2 of the interface."""

    def __init__(self, parent: Path, version: int):
        self.parent, self.version = parent, version
        self._closing: list[Group] = []

    def close(self, group: Group | None = None, patience: float = 0.0) -> None:
        """Remove ``group`` and those that could not be removed before; retry for ``patience`` seconds."""
        self._closing += [] if group is None else [group]
        until = time.monotonic() + patience
        while True:
            self._closing = [group for group in self._closing if not group.close()]
            if not self._closing or time.monotonic() >= until:
                return
            time.sleep(0.01)

    def group(self) -> Group | None:
        """Return a new group, or None if the system refuses."""
        try:
            return Group(self.parent, self.version)
        except OSError as error:
            log.warning("cannot create a control group for a runner below %s: %s", self.parent, error)
            return None


def find() -> Cgroups | None:
    """Return where to create groups for runners; None if memory cannot be limited by groups here.

    Removes groups left behind by workers that no longer run.
    """
    for version in (2, 1):
        own = _own(version)
        if own is None or not _prepared(own, version):
            continue
        _sweep(own)
        try:
            probe = Group(own, version)
        except OSError:
            continue
        fits = (probe.directory / _VERSIONS[version].limit).exists()
        probe.close()
        if fits:
            return Cgroups(own, version)
    return None


def _sweep(own: Path) -> None:
    for left in own.glob(f"{RUNNER}*"):
        if not (PROC / left.name[len(RUNNER) :].partition("-")[0]).exists():
            try:
                left.rmdir()
            except OSError:
                # a process in it is still ending, or it belongs to another account
                pass


def _own(version: int) -> Path | None:
    """Return the directory of this process's group, or of its parent if the process has moved down."""
    try:
        lines = [line.split(":", 2) for line in (PROC / "self/cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (PROC / "self/mounts").read_text().splitlines()]
    except OSError:
        return None
    wanted = "" if version == 2 else "memory"
    paths = [path for _, controllers, path in lines if wanted in controllers.split(",")]
    kind = "cgroup2" if version == 2 else "cgroup"
    roots = [m[1] for m in mounts if m[2] == kind and (version == 2 or "memory" in m[3].split(","))]
    if not paths or not roots:
        return None
    directory = Path(roots[0]) / paths[0].lstrip("/")
    directory = directory.parent if directory.name == WORKER else directory
    return directory if os.access(directory, os.W_OK) else None


def _prepared(own: Path, version: int) -> bool:
    """Ensure that groups below ``own`` may limit memory; return whether they may."""
    if version == 1:
        return True
    try:
        if "memory" not in (own / "cgroup.controllers").read_text().split():
            return False
        control = own / "cgroup.subtree_control"
        if "memory" in control.read_text().split():
            return True
        inside = {int(pid) for pid in (own / "cgroup.procs").read_text().split()}
        if not inside <= {os.getpid(), *descendants(os.getpid())}:
            return False
        (own / WORKER).mkdir(exist_ok=True)
        for pid in inside:
            (own / WORKER / "cgroup.procs").write_text(str(pid))
        control.write_text("+memory")
    except OSError:
        return False
    return True
