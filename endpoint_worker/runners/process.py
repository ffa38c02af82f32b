"""A runner's process: start, measure, kill and clean up.

Nothing here blocks, because the supervisor's thread calls it.
"""

# One concept: a process from its command line to the description of its end.

from __future__ import annotations

import os
import signal
import site
import socket
import subprocess
import sys
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

import endpoint_worker
import umbel
from umbel.protocol.limits import DEFAULT_OUTPUT_BYTES
from umbel.protocol.run_options import RunOptions

from ..config.hardware import BoundTo, Layout
from ..config.mounts import Mount, Start
from ..ipc import shared_memory
from ..ipc.output import OutputReader, open_pipe
from ..ipc.shared_memory import SharedProgress
from ..sandbox.channel import MountedSocket, SocketPair
from ..sandbox.launchers import Launcher
from . import call_directories, process_tree
from .cgroups import Cgroups, Group

#: Defines the command ``module``, which otherwise only login shells have.
_MODULES = """for file in "$LMOD_PKG/init/bash" "$MODULESHOME/init/bash" /etc/profile.d/*modules.sh \\
    /etc/profile.d/*lmod.sh; do
    if ! type module >/dev/null 2>&1 && [ -r "$file" ]; then . "$file"; fi
done"""


@dataclass(frozen=True)
class RunnerOptions:
    """How to start runners, and which limits apply where a bundle sets none (None: no limit).

    ``python``: argv of the interpreter; ``timeout``: seconds; ``memory``: bytes; ``cpu``: seconds;
    ``output``: bytes kept of a call's output; ``open_files``: maximum descriptors of the process (0: as the
    worker); ``recycle_calls``: replace a runner after that many calls (0: never); ``recycle_memory``: or
    above that resident size (bytes, 0: never). ``key``: identifies this kind of runner among those of a node.
    ``fresh_key``: runners of all kinds with the same one are alike until their first bundle (None: ``key``).
    ``launcher``: starts the sandbox; ``mounts`` and ``hidden``: what is visible in it and what must not be.
    ``runtime_copy``: directory with the packages of a runner, for an interpreter without them.
    ``for_environment``: the interpreter belongs to an environment that a function requires. ``setup``: shell
    lines to run first.
    """

    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    python: Sequence[str] = (sys.executable,)
    timeout: float | None = None
    memory: int | None = None
    cpu: float | None = None
    output: int = DEFAULT_OUTPUT_BYTES
    open_files: int = 0
    recycle_calls: int = 0
    recycle_memory: int = 0
    key: Hashable = ()
    fresh_key: Hashable = None
    launcher: Launcher = field(default_factory=Launcher)
    mounts: Sequence[Mount] = ()
    hidden: Sequence[Path] = ()
    runtime_copy: Path | None = None
    #: slots that a call occupies, and the hardware of each slot
    cores: int = 1
    layout: Layout = field(default_factory=Layout)
    for_environment: bool = False
    setup: Sequence[str] = ()
    #: creates groups that limit the memory of a call and everything it starts
    cgroups: Cgroups | None = None
    #: when the directory of a call is kept: "never", "failed" or "always"
    keep_files: str = "never"
    #: "process": each call has a process of its own
    isolation: str = "none"
    #: how many idle runners without a slot a node keeps
    warm_runners: int = 4

    @property
    def fresh(self) -> Hashable:
        """Key of unused runners that may become runners of this kind."""
        return self.key if self.fresh_key is None else self.fresh_key

    @property
    def limits(self) -> RunOptions:
        """Limits for every call, whatever its bundle says."""
        return RunOptions(
            timeout=self.timeout or None,
            memory=self.memory or None,
            cpu=self.cpu or None,
            output=self.output,
            open_files=self.open_files or None,
        )


class RunnerProcess:
    """A runner process on the slots ``numbers``, with its socket, shared memory and output pipe."""

    def __init__(self, options: RunnerOptions, numbers: Sequence[int] = (0,)):
        self._options = options
        self._numbers = numbers
        self._launcher = options.launcher
        self._killed = False
        #: name of the directory of its calls below the work directory
        self.directory_name = call_directories.new_name(numbers[0])
        #: it was killed from outside, which says nothing about its interpreter
        self.ended_by_signal = False
        #: the runner's control group, if it has one
        self.cgroup: Group | None = None
        with ExitStack() as undo:
            self._acquire(undo)
            undo.pop_all()

    def _acquire(self, undo: ExitStack) -> None:
        """Start the process; ``undo`` releases everything if any step fails (e.g. no descriptors left)."""
        if self._options.cgroups is not None and self._launcher.keeps_cgroup:
            self.cgroup = self._options.cgroups.group()
            undo.callback(self._remove_cgroup)
        self._errors: IO[bytes] = undo.enter_context(tempfile.TemporaryFile())
        with ExitStack() as passed:
            fd = shared_memory.create()
            passed.callback(os.close, fd)
            reading, writing = open_pipe()
            passed.callback(os.close, writing)
            undo.callback(os.close, reading)
            self.progress = SharedProgress(fd)
            undo.callback(self.progress.close)
            channel = SocketPair if self._launcher.in_place else MountedSocket
            self._channel: SocketPair | MountedSocket = channel(fd, writing)
            # they belong to the channel now
            passed.pop_all()
        undo.callback(self._channel.close)
        #: reads from the runner, as ``socket.recv``
        self.receive = self._channel.receive
        try:
            self._process = self._spawn()
        finally:
            self._channel.started()
        undo.callback(self._kill_group)
        self.output = OutputReader(reading, self.progress)

    def _spawn(self) -> subprocess.Popen[bytes]:
        options = self._options
        options.directory.mkdir(parents=True, exist_ok=True)
        start = Start(
            [*options.python, "-c", self._start_code()],
            options.directory,
            [*options.mounts, *self._own_mounts()],
            {**options.environment, **options.layout.environment(self._numbers)},
            options.hidden,
        )
        enter = [] if self.cgroup is None else self.cgroup.enter()
        with BoundTo(options.layout.affinity(self._numbers)):
            return subprocess.Popen(
                [*enter, *setup_command(options.setup), *self._launcher.command(start)],
                cwd=options.directory,
                env=self._launcher.environment(start),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=self._channel.passed,
                start_new_session=True,
            )

    def _start_code(self) -> str:
        """Return the program for the runner's Python."""
        launcher, files = self._launcher, self._options.open_files
        path = _import_path() if self._options.runtime_copy is None else [str(self._options.runtime_copy)]
        path = [launcher.inside("kit")] if launcher.sandboxed else path
        code = f"import sys; sys.path[:1] = {path!r}; "
        if isinstance(self._channel, MountedSocket):
            code += "from endpoint_worker.sandbox.bootstrap import main; "
            line = launcher.inside("line") + "/line"
            return code + f"main({line!r}, {self.directory_name!r}, {files}, {launcher.keeper})"
        sock, progress, output = self._channel.passed
        code += "from endpoint_worker.child.main import main; "
        return code + f"main({sock}, {progress}, {output}, {os.getpid()}, {self.directory_name!r}, {files})"

    def _own_mounts(self) -> list[Mount]:
        mounts = []
        if self._launcher.sandboxed and self._options.runtime_copy is not None:
            mounts.append(Mount(self._options.runtime_copy, self._launcher.inside("kit")))
        if isinstance(self._channel, MountedSocket):
            mounts.append(Mount(self._channel.directory, self._launcher.inside("line"), "rw"))
        return mounts

    @property
    def sock(self) -> socket.socket:
        """The socket that becomes readable when the runner sends something."""
        return self._channel.sock

    @property
    def outer_pid(self) -> int:
        """Process id and process group id of what was started: the runner, or its sandbox."""
        return self._process.pid

    @property
    def pid(self) -> int:
        """Process id of the runner on this machine, as far as known."""
        return self._channel.runner_pid or self._process.pid

    @property
    def killed(self) -> bool:
        """True once ``kill`` was called."""
        return self._killed

    def limit_memory(self, size: int | None) -> bool:
        """Limit the runner and everything it starts to ``size`` bytes more than now (None: no limit).

        False: there is no control group for that, and the runner must limit itself.
        """
        if self.cgroup is None:
            return False
        return self.cgroup.limit(None if size is None else self.resident() + size)

    def cpu_seconds(self, *, children: bool = False) -> float:
        """Processor time used by the process so far, or also by its children that run."""
        pids = [self.pid, *(process_tree.descendants(self.pid) if children else ())]
        used = 0.0
        for pid in pids:
            try:
                times = psutil.Process(pid).cpu_times()
                used += float(times.user + times.system)
            except (psutil.Error, OSError):
                continue
        return used

    def resident(self) -> int:
        """Resident size of the process (bytes)."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except (psutil.Error, OSError):
            return 0

    def finish(self) -> None:
        """Let an idle runner end by itself; from now on it counts as killed."""
        self._killed = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def kill(self) -> None:
        """Kill the runner and everything that it started."""
        descendants = [] if self._killed else self._descendants()
        self._killed = True
        # the runner first: a call that waits for a child must not see the child die and return normally
        self._kill_group()
        process_tree.kill(descendants)

    def _descendants(self) -> list[int]:
        """Return all processes of the runner, itself first if it runs inside a sandbox."""
        first, runner = self._channel.first_pid, self._channel.runner_pid
        found = [] if runner is None else [runner]
        if first is not None:
            # a container need not descend from the command that started it
            found += [*process_tree.descendants(first), first]
        return found + process_tree.descendants(self.outer_pid)

    def _kill_group(self) -> None:
        try:
            os.killpg(self.outer_pid, signal.SIGKILL)
        except OSError:
            pass  # it has ended

    def ended(self, started: bool) -> str | None:
        """Return how the runner ended, as a sentence, or None while it is alive. Kills the rest of its group.

        ``started``: it had sent HELLO; otherwise the sentence contains its standard error.
        """
        try:
            if os.waitid(os.P_PID, self.outer_pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
        except ChildProcessError:
            pass  # something else has reaped it: its exit code is unknown
        # before the runner is reaped, its process group id cannot be reused
        self._kill_group()
        code = self._process.wait()
        if code > 128 and not self._launcher.in_place:
            # like a shell, it encodes the signal that ended the runner
            code = 128 - code
        self.ended_by_signal = code in (-signal.SIGKILL, -signal.SIGTERM)
        if not started:
            self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 2000))
            text = self._errors.read().decode(errors="replace").strip()
            return f"the runner could not start (exit code {code}): {text or 'no output'}"
        return describe_exit(code)

    def close(self, kept_as: str | None = None) -> None:
        """Release the resources of a dead runner; ``kept_as``: keep the directory of its last call so."""
        call_directories.remove(self._options.directory, self.directory_name, kept_as)
        self._channel.close()
        self._errors.close()
        self.output.close()
        self.progress.close()
        self._remove_cgroup()

    def _remove_cgroup(self) -> None:
        if self._options.cgroups is not None and self.cgroup is not None:
            self._options.cgroups.close(self.cgroup)


def setup_command(setup: Sequence[str]) -> list[str]:
    """Return the words to put before a command so that these lines run first; a failing line ends it."""
    return ["bash", "-c", "\n".join([_MODULES, "set -e", *setup, 'exec "$0" "$@"'])] if setup else []


def describe_exit(code: int) -> str:
    """Describe how a process ended."""
    if code >= 0:
        return f"the process that ran the call exited with code {code}: a call must not end its process"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hints = {
        "SIGKILL": "the system may have run out of memory",
        "SIGSEGV": "invalid memory access in compiled code, or recursion too deep",
        "SIGBUS": "invalid memory access in compiled code, or a full disk",
        "SIGABRT": "compiled code called abort()",
    }
    hint = hints.get(name)
    return f"the process that ran the call was killed by {name}" + (f": {hint}" if hint else "")


def _import_path() -> list[str]:
    """Directories that a runner needs on its path to find this package, if it is not installed normally."""
    directories = [
        str(Path(module).resolve().parents[1]) for module in (endpoint_worker.__file__, umbel.__file__)
    ]
    installed = {str(Path(f).resolve()) for f in (*site.getsitepackages(), site.getusersitepackages())}
    return [directory for directory in dict.fromkeys(directories) if directory not in installed]
