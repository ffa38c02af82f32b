"""Commands as functions: ``ShellFunction`` and ``MPIFunction``.

Both are ordinary callables that run their command where they are called, so they can be submitted to an
Executor like any function, and tried at home first.
"""

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

#: Lines and bytes of standard output and error that travel back.
SNIPPET_LINES, SNIPPET_BYTES = 1000, 256 * 1024
#: Return code of a command that ran longer than its timeout, as ``timeout(1)`` gives it.
TIMED_OUT = 124
#: How long a command that ran too long may take to end, with all of its group, after SIGTERM, seconds.
#: In this time Slurm's srun has its ranks on other nodes ended.
GRACE = 5.0
#: Variable by which a site names its MPI launcher, e.g. ``srun`` or ``mpiexec --map-by node``.
LAUNCHER_VARIABLE = "UMBEL_MPI_LAUNCHER"


class ShellError(UmbelError):
    """A command could not be made or started; a command that ran and failed is a ShellResult."""

    default_code = "TASK_ERROR"


@dataclass(frozen=True)
class ShellResult:
    """How a command ended.

    ``returncode``: as subprocess gives it (negative: signal), 124 when it ran too long. ``stdout``,
    ``stderr``: the last lines of each. ``stdout_file``, ``stderr_file``: where all of it lies, if the
    function named files. ``seconds``: wall time.
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
        """True when the command succeeded."""
        return self.returncode == 0

    @property
    def timed_out(self) -> bool:
        """True when the command was ended because it ran too long."""
        return self.returncode == TIMED_OUT

    def check(self) -> ShellResult:
        """Return this result, or raise ShellError with the end of standard error when the command failed."""
        if not self.ok:
            said = self.stderr[-500:].strip() or "it said nothing"
            raise ShellError(
                f"'{self.command}' ended with code {self.returncode}: {said}",
                details={"returncode": self.returncode},
            )
        return self


class _Quoting(string.Formatter):
    """Formats ``{name}`` with shell-quoted values; ``{names}`` of a list or tuple becomes several words."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, (list, tuple)):
            return " ".join(shlex.quote(format(item, format_spec)) for item in value)
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        return shlex.quote(format(value, format_spec))


class ShellFunction:
    """A command line with places for arguments.

    >>> dock = ShellFunction("echo docking {ligand}")
    >>> dock(ligand="a file.mol").stdout
    'docking a file.mol\\n'

    ``command``: run by ``/bin/sh``; ``{name}`` is replaced by the call's keyword argument, quoted, so that
    no value can become a command (``{{`` and ``}}`` are braces). ``timeout``: seconds; then the command and
    all processes of its group are ended and the return code is 124. ``cwd``: folder, made if missing;
    default: a new one below the endpoint's, removed afterwards unless ``keep`` is true. ``env``: variables
    beside those of the endpoint. ``stdout``, ``stderr``: files for the whole output, with places as in the
    command. ``snippet_lines``: last lines of each that come back.

    Calling it returns a ``ShellResult``, whatever the command's return code. Raises ShellError for missing
    arguments.
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
        """Return the command line for these arguments. Raises ShellError for one that is missing."""
        return self._fill(self.command, arguments)

    def __call__(self, **arguments: Any) -> ShellResult:
        """Run the command for these arguments."""
        line = self.line(**arguments)
        if self.cwd is not None:
            os.makedirs(self.cwd, exist_ok=True)
            return self._run(line, self.cwd, arguments)
        folder = tempfile.mkdtemp(prefix="shell-", dir=os.getcwd())
        try:
            return self._run(line, folder, arguments)
        finally:
            if not self.keep:
                shutil.rmtree(folder, ignore_errors=True)

    def _fill(self, template: str, arguments: Mapping[str, Any]) -> str:
        try:
            return _Quoting().vformat(template, (), arguments)
        except (KeyError, IndexError) as error:
            raise ShellError(f"'{template}' wants an argument {error} that the call does not give") from None
        except ValueError as error:
            raise ShellError(f"'{template}' is no valid template: {error}") from None

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
        # a file's name needs no quoting: no shell reads it
        return os.path.join(folder, name.format(**arguments))

    @staticmethod
    def _open(path: str | None) -> Any:
        if path is None:
            return tempfile.TemporaryFile()
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return open(path, "w+b")


class MPIFunction(ShellFunction):
    """A command that is started as several MPI ranks by the site's launcher.

    ``ranks``: processes in all; ``nodes``: nodes that they are spread over (launchers that know no nodes get
    ``ranks`` only). ``launcher``: words before the command; default: the site's ``UMBEL_MPI_LAUNCHER``, else
    ``srun`` inside a Slurm job, else ``mpiexec`` or ``mpirun``. Raises ShellError where there is none.
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
            raise ShellError(f"ranks and nodes must be at least 1, not {ranks} and {nodes}")
        super().__init__(command, **options)
        self.ranks = ranks
        self.nodes = nodes
        self.launcher = launcher

    def line(self, **arguments: Any) -> str:
        """Return the command line with the launcher before it."""
        words = self._launcher()
        known = Path(words[0]).name
        words += ["-n", str(self.ranks)]
        if self.nodes is not None:
            if known == "srun":
                words += ["-N", str(self.nodes)]
            elif known in ("mpiexec", "mpirun"):
                words += ["--map-by", f"ppr:{-(-self.ranks // self.nodes)}:node"]
        # one command for the launcher, whatever shell syntax it holds
        return shlex.join([*words, "/bin/sh", "-c", self._fill(self.command, arguments)])

    def _launcher(self) -> list[str]:
        named = self.launcher or os.environ.get(LAUNCHER_VARIABLE)
        if named:
            return shlex.split(named)
        for word in (["srun"] if "SLURM_JOB_ID" in os.environ else []) + ["mpiexec", "mpirun"]:
            if shutil.which(word):
                return [word]
        raise ShellError(
            f"there is no MPI launcher here: install one, or have the endpoint's owner set "
            f"{LAUNCHER_VARIABLE}"
        )


def _wait(process: subprocess.Popen[bytes], timeout: float | None) -> int:
    """Wait for a command and end what is left of its group; return its code."""
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
    """Wait until nothing of the group is left, ``seconds`` at most: the shell dies before what it started."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        process.poll()
        try:
            # orphans of the group may have become ours
            os.waitpid(-process.pid, os.WNOHANG)
        except ChildProcessError:
            pass
        if not _signal_group(process, 0):
            return
        time.sleep(0.02)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Signal the command's group; False when there is nobody in it."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _tail(file: Any, lines: int) -> str:
    """The last lines of a file, and no more than SNIPPET_BYTES of it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - SNIPPET_BYTES))
    text = file.read().decode(errors="replace")
    kept = text.splitlines(keepends=True)[-lines:] if lines > 0 else []
    return "".join(kept)
