"""Commands as functions: ``ShellFunction`` and ``MPIFunction``.

Both are ordinary callables that run their command where they are called: they can be submitted to an Executor
like any function, and tested locally first.
"""

# One concept: a command as a callable, with its result; MPI adds only the launcher.

from __future__ import annotations

import os
import shlex
import shutil
import signal
import string
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .protocol.errors import UmbelError

#: Largest part of standard output and of standard error that is returned: lines (default), bytes.
SNIPPET_LINES, SNIPPET_BYTES = 1000, 256 * 1024
#: Return code of a command that exceeded its timeout, as that of ``timeout(1)``.
TIMED_OUT = 124
#: Seconds between SIGTERM and SIGKILL for the process group of a command that exceeded its timeout. In this
#: time Slurm's srun ends its ranks on other nodes.
GRACE = 5.0
#: Environment variable with the site's MPI launcher, e.g. ``srun`` or ``mpiexec --map-by node``.
LAUNCHER_VARIABLE = "UMBEL_MPI_LAUNCHER"
#: Environment variable with the directory that all calls of an endpoint share; set on endpoints.
WORK_VARIABLE = "UMBEL_WORK"


class ShellError(UmbelError):
    """A command line cannot be built, or ``ShellResult.check`` found that the command failed.

    Raised where the function runs; a future gets it like any exception of a function. Code: ``TASK_ERROR``.
    """

    default_code = "TASK_ERROR"


@dataclass(frozen=True)
class ShellResult:
    """The outcome of a command.

    Attributes:
        command (str): The command line, with its arguments.
        returncode (int): As in ``subprocess``: negative for a signal; 124 if the timeout was exceeded.
        stdout (str): The last lines of standard output, at most 256 KiB.
        stderr (str): The last lines of standard error, at most 256 KiB.
        cwd (str): The directory that the command ran in.
        seconds (float): Run time, seconds.
        stdout_file (str | None): Path of the complete output, if the function names a file for it.
        stderr_file (str | None): The same for standard error.
    """

    command: str
    returncode: int
    stdout: str
    stderr: str
    cwd: str
    seconds: float
    stdout_file: str | None = None
    stderr_file: str | None = None

    @property
    def ok(self) -> bool:
        """True if the return code is 0."""
        return self.returncode == 0

    @property
    def timed_out(self) -> bool:
        """True if the return code is 124: the command was killed because it exceeded its timeout."""
        return self.returncode == TIMED_OUT

    def check(self) -> ShellResult:
        """Check that the command succeeded.

        Returns:
            This result.

        Raises:
            ShellError: The return code is not 0. The message has the end of standard error, ``details`` has
                ``returncode``.
        """
        if not self.ok:
            reason = self.stderr[-500:].strip() or "no output on standard error"
            raise ShellError(
                f"'{self.command}' failed with code {self.returncode}: {reason}",
                details={"returncode": self.returncode},
            )
        return self


class _Quoting(string.Formatter):
    """Formats ``{name}`` with shell-quoted values; a list or tuple becomes several words."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, (list, tuple)):
            return " ".join(shlex.quote(format(item, format_spec)) for item in value)
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        return shlex.quote(format(value, format_spec))


class ShellFunction:
    """A shell command with placeholders for arguments, as a function.

    >>> dock = ShellFunction("echo docking {ligand}")
    >>> dock(ligand="a file.mol").stdout
    'docking a file.mol\\n'

    Calling it runs the command and returns a ``ShellResult``, whatever its return code. On an endpoint the
    result of ``executor.submit(dock, ligand="a.mol")`` is that ``ShellResult``.

    Args:
        command: Command line for ``/bin/sh``. ``{name}`` is replaced by the call's keyword argument ``name``,
            quoted, so that no value is interpreted by the shell; a list becomes several words. ``{{`` and
            ``}}`` are braces.
        timeout: Run time of the command, seconds. Then it and its process group get SIGTERM, 5 seconds later
            SIGKILL, and the return code is 124. Default: no limit.
        cwd: Working directory, created if missing; relative to the endpoint's work directory. Default: a new
            directory, deleted after the call unless ``keep`` is true.
        env: Environment variables in addition to those of the process.
        stdout: File for the complete standard output, relative to ``cwd``, with placeholders as in the
            command. Default: none.
        stderr: File for the complete standard error, likewise.
        snippet_lines: Number of last lines of each that the result contains.
        keep: Keep the new working directory, which is then in the endpoint's work directory.
        name: Name of the function to show. Default: the name of the command.
    """

    def __init__(
        self,
        command: str,
        *,
        timeout: float | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        stdout: str | None = None,
        stderr: str | None = None,
        snippet_lines: int = SNIPPET_LINES,
        keep: bool = False,
        name: str | None = None,
    ):
        self.command = command
        self.timeout = timeout
        self.cwd = os.fspath(cwd) if cwd is not None else None
        self.env = dict(env or {})
        self.stdout = stdout
        self.stderr = stderr
        self.snippet_lines = snippet_lines
        self.keep = keep
        words = command.split()
        self.__name__ = name or (Path(words[0]).name if words else "shell")
        self.__doc__ = command

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.command!r})"

    def line(self, **arguments: Any) -> str:
        """Return the command line of a call.

        Args:
            **arguments: Values of the placeholders.

        Returns:
            The command line, a string.

        Raises:
            ShellError: An argument is missing, or the command is not a valid template.
        """
        return self._fill(self.command, arguments)

    def __call__(self, **arguments: Any) -> ShellResult:
        """Run the command.

        Args:
            **arguments: Values of the placeholders.

        Returns:
            The outcome of the command, whatever its return code.

        Raises:
            ShellError: An argument is missing, or the command is not a valid template.
        """
        line = self.line(**arguments)
        # the current directory of a call on an endpoint is deleted after it
        lasting = os.environ.get(WORK_VARIABLE, "")
        if self.cwd is not None:
            folder = os.path.join(lasting, self.cwd)
            os.makedirs(folder, exist_ok=True)
            return self._run(line, folder, arguments)
        folder = tempfile.mkdtemp(prefix="shell-", dir=lasting if lasting and self.keep else os.getcwd())
        try:
            return self._run(line, folder, arguments)
        finally:
            if not self.keep:
                shutil.rmtree(folder, ignore_errors=True)

    def _fill(self, template: str, arguments: Mapping[str, Any]) -> str:
        try:
            return _Quoting().vformat(template, (), arguments)
        except (KeyError, IndexError) as error:
            raise ShellError(
                f"the argument {error} of '{template}' is missing: pass it in the call"
            ) from None
        except ValueError as error:
            raise ShellError(f"'{template}' is not a valid template: {error}") from None

    def _run(self, line: str, folder: str, arguments: Mapping[str, Any]) -> ShellResult:
        files = [self._file(name, folder, arguments) for name in (self.stdout, self.stderr)]
        with self._open(files[0]) as out, self._open(files[1]) as err:
            began = time.monotonic()
            process = subprocess.Popen(
                ["/bin/sh", "-c", line],
                cwd=folder,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            code = _wait(process, self.timeout)
            seconds = time.monotonic() - began
            return ShellResult(
                command=line,
                returncode=code,
                stdout=_tail(out, self.snippet_lines),
                stderr=_tail(err, self.snippet_lines),
                cwd=folder,
                seconds=seconds,
                stdout_file=files[0],
                stderr_file=files[1],
            )

    def _file(self, name: str | None, folder: str, arguments: Mapping[str, Any]) -> str | None:
        if name is None:
            return None
        # not quoted: the shell does not read the names of these files
        return os.path.join(folder, name.format(**arguments))

    @staticmethod
    def _open(path: str | None) -> Any:
        if path is None:
            return tempfile.TemporaryFile()
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return open(path, "w+b")


class MPIFunction(ShellFunction):
    """A shell command that the site's MPI launcher starts as several ranks.

    >>> relax = MPIFunction("gpaw python {script}", ranks=64, nodes=2, timeout=3600)

    Args:
        command: Command line, as in ``ShellFunction``.
        ranks: Number of processes in all.
        nodes: Number of nodes to spread them over. Launchers other than ``srun``, ``mpiexec`` and ``mpirun``
            get only ``ranks``. Default: the launcher's choice.
        launcher: Command line of the launcher, put before the command. Default: the environment variable
            ``UMBEL_MPI_LAUNCHER`` of the endpoint, else ``srun`` inside a Slurm job, else ``mpiexec`` or
            ``mpirun``.
        **options: As in ``ShellFunction``: ``timeout``, ``cwd``, ``env``, ``stdout``, ``stderr``,
            ``snippet_lines``, ``keep``, ``name``.

    Raises:
        ShellError: ``ranks`` or ``nodes`` is less than 1; when it is called: there is no MPI launcher.
    """

    def __init__(
        self,
        command: str,
        *,
        ranks: int,
        nodes: int | None = None,
        launcher: str | None = None,
        **options: Any,
    ):
        if ranks < 1 or (nodes is not None and nodes < 1):
            raise ShellError(f"ranks and nodes must be at least 1, got {ranks} and {nodes}")
        super().__init__(command, **options)
        self.ranks = ranks
        self.nodes = nodes
        self.launcher = launcher

    def line(self, **arguments: Any) -> str:
        """Return the command line of a call, with the launcher.

        Args:
            **arguments: Values of the placeholders.

        Returns:
            The command line, a string.

        Raises:
            ShellError: An argument is missing, or there is no MPI launcher.
        """
        words = self._launcher()
        known = Path(words[0]).name
        words += ["-n", str(self.ranks)]
        if self.nodes is not None:
            if known == "srun":
                words += ["-N", str(self.nodes)]
            elif known in ("mpiexec", "mpirun"):
                words += ["--map-by", f"ppr:{-(-self.ranks // self.nodes)}:node"]
        # one command for the launcher, whatever shell syntax it contains
        return shlex.join([*words, "/bin/sh", "-c", self._fill(self.command, arguments)])

    def _launcher(self) -> list[str]:
        named = self.launcher or os.environ.get(LAUNCHER_VARIABLE)
        if named:
            return shlex.split(named)
        for word in (["srun"] if "SLURM_JOB_ID" in os.environ else []) + ["mpiexec", "mpirun"]:
            if shutil.which(word):
                return [word]
        raise ShellError(
            f"no MPI launcher found: install one, or ask the owner of the endpoint to set {LAUNCHER_VARIABLE}"
        )


def _wait(process: subprocess.Popen[bytes], timeout: float | None) -> int:
    """Wait for a command, kill the rest of its process group and return its code."""
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        _signal_group(process, signal.SIGTERM)
        _await_group(process, GRACE)
        code = TIMED_OUT
    finally:
        _signal_group(process, signal.SIGKILL)
        process.wait()
    return code


def _await_group(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until the process group is empty, ``seconds`` at most: the shell exits before its children."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        process.poll()
        try:
            # orphans of the group may have become children of this process
            os.waitpid(-process.pid, os.WNOHANG)
        except ChildProcessError:
            pass
        if not _signal_group(process, 0):
            return
        time.sleep(0.02)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Signal the command's process group; False if it is empty."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _tail(file: Any, lines: int) -> str:
    """The last lines of a file, at most SNIPPET_BYTES of them."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - SNIPPET_BYTES))
    text = file.read().decode(errors="replace")
    kept = text.splitlines(keepends=True)[-lines:] if lines > 0 else []
    return "".join(kept)
