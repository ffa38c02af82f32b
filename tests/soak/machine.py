"""The machine that the soak runs on: small disks, and clocks that can be set, for what can be had here."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from federation.standalone import redis_server
from tests.support import faketime, small_disk
from tests.support.embedded import ROOT
from tests.support.small_disk import SmallDisk

#: Bytes of each disk: more than a soak writes.
DISK = "4g"
#: Redis does not start under libfaketime.
_REDIS = """\
#!/bin/sh
unset LD_PRELOAD
exec {server} "$@"
"""
# The endpoint is started with the environment of the services. Under libfaketime 0.9.10, clock_nanosleep
# fails with EINVAL while the clock is wrong.
_SITECUSTOMIZE = """\
import os, select, sys, time

time.sleep = lambda seconds: select.select([], [], [], seconds) and None
clock = os.environ.get("SOAK_ENDPOINT_CLOCK")
if clock and "endpoint_worker" in sys.orig_argv and os.environ.get("FAKETIME_TIMESTAMP_FILE") != clock:
    os.execve(sys.executable, sys.orig_argv, {**os.environ, "FAKETIME_TIMESTAMP_FILE": clock})
"""
_SHARED = Path("/dev/shm")


class Machine:
    """Disks and clocks of "service" and "endpoint" in ``folder``, which gets the federation's ``home``.

    ``environ``: for the federation. ``missing``: what cannot be done here, and why.
    """

    PARTS = ("service", "endpoint")

    def __init__(self, folder: Path):
        self._folder, self._home = folder, folder / "home"
        self._stack = ExitStack()
        self.disks: dict[str, SmallDisk] = {}
        self.clocks: dict[str, Path] = {}
        self.environ: dict[str, str] = {}
        self.missing: list[str] = []

    def __enter__(self) -> Machine:
        if why := small_disk.missing():
            self.missing.append(f"full disks: {why}")
        else:
            for part, folder in zip(self.PARTS, (self._home, self._home / "endpoints")):
                folder.mkdir(mode=0o700)
                self.disks[part] = self._stack.enter_context(SmallDisk(folder, DISK))
            # the log files are wanted after the test, too
            self._stack.callback(self._keep_files)
        if faketime.LIBRARY is None:
            self.missing.append("wrong clocks: libfaketime is not installed (Debian's package faketime)")
        else:
            self._make_clocks()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def set_clock(self, part: str, seconds: float) -> None:
        """Make the clock of a part differ by so much from the right time, within a second."""
        draft = self.clocks[part].with_suffix(".draft")
        draft.write_text(f"{seconds:+.0f}\n")
        draft.replace(self.clocks[part])

    def _make_clocks(self) -> None:
        programs, modules = self._folder / "programs", self._folder / "modules"
        for folder in (programs, modules):
            folder.mkdir()
        redis = programs / "redis-server"
        redis.write_text(_REDIS.format(server=redis_server.server_binary()))
        redis.chmod(0o700)
        (modules / "sitecustomize.py").write_text(_SITECUSTOMIZE)
        for part in self.PARTS:
            self.clocks[part] = self._folder / f"clock-of-{part}"
            self.set_clock(part, 0.0)
        self.environ = {
            **faketime.variables(self.clocks["service"]),
            "SOAK_ENDPOINT_CLOCK": str(self.clocks["endpoint"]),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, (modules, ROOT, ROOT / "sdk"))),
        }
        self._stack.callback(_forget_shared_memory, time.time())

    def _keep_files(self) -> None:
        subprocess.run(["cp", "-a", str(self._home), str(self._folder / "files")], check=True)


def _forget_shared_memory(since: float) -> None:
    """Remove what killed processes under libfaketime have left behind since then."""
    for file in _SHARED.glob("*faketime_*"):
        try:
            if file.stat().st_mtime >= since and not Path("/proc", file.name.rpartition("_")[2]).exists():
                file.unlink()
        except OSError:
            continue
