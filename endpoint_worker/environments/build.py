"""Making an environment: with uv where it is installed, else with venv and pip."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO

from umbel.protocol.environment import Environment

from ..config.environments import OLDEST_PYTHON, Environments
from ..runners.process_tree import exempt_program
from .store import BuildError, Interrupted

#: Lines and characters of a build's log that a failure shows.
LOG_LINES, LOG_CHARACTERS = 12, 1500
#: What signals a worker to stop may reach its builds first: so long (seconds) a killed one waits for that.
STOP_SECONDS = 3.0


class Builder:
    """Builds environments by a site's settings; ``environ``: variables of the programs that do it."""

    def __init__(self, settings: Environments, environ: Mapping[str, str]):
        self._settings = settings
        self._environ = {name: value for name, value in environ.items() if name != "VIRTUAL_ENV"}
        self._environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
        if "UV_CACHE_DIR" not in environ:
            # a cache of its own would grow without bound; a site that wants one names it
            self._environ["UV_NO_CACHE"] = "1"
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = threading.Event()

    def make(self, environment: Environment, directory: Path, lock: int | None = None) -> tuple[str, str]:
        """Fill ``folder``; return its interpreter and that one's home. Raises BuildError, OSError.

        ``lock``: a file descriptor that each program keeps. Raises Interrupted when ``stop`` is called.
        """
        version = environment.python
        if version is not None and tuple(int(part) for part in version.split(".")[:2]) < OLDEST_PYTHON:
            raise BuildError(f"Python {version} is too old to run calls: 3.10 is the oldest")
        if not self._settings.sources and any("@" in item for item in environment.requirements):
            raise BuildError(
                "requirements with an address need 'sources = true' in the site's [environments]"
            )
        uv = find_uv()
        run = partial(self._run, time.monotonic() + self._settings.build_seconds, lock)
        python = directory / "bin" / "python"
        options = list(self._settings.options)
        if not self._settings.sources:
            options += ["--only-binary", ":all:"]
        # the requirements go through a file: nothing in them can be an option
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
            wanted.write("\n".join(environment.requirements) + "\n")
            wanted.flush()
            if uv:
                run([uv, "venv", "--python", version or sys.executable, str(directory)])
                install = [uv, "pip", "install", "--python", str(python), *options]
            else:
                run([find_python(version), "-m", "venv", str(directory)])
                install = [str(python), "-m", "pip", "install", *options]
            # before anything is installed: packages can change what is said here, or what that Python does
            base = base_of(directory) or directory
            if environment.requirements:
                run([*install, "-r", wanted.name])
        return str(python), str(base)

    def stop(self) -> None:
        """End builds that run, and begin none."""
        self._stopped.set()
        for process in list(self._running):
            _kill(process)

    def _run(self, until: float, lock: int | None, argv: Sequence[str]) -> str:
        """Run one program; return what it said. Raises BuildError with the last lines of it, Interrupted."""
        if self._stopped.is_set():
            raise Interrupted
        with tempfile.TemporaryFile() as output:
            code, why = self._wait(until, lock, argv, output)
            output.seek(max(0, output.seek(0, os.SEEK_END) - 20_000))
            text = output.read().decode(errors="replace")
        if code != 0:
            if self._stopped.wait(STOP_SECONDS if code < 0 else 0.0):
                raise Interrupted
            raise BuildError(
                f"{why}:\n" + "\n".join(text.strip().splitlines()[-LOG_LINES:])[-LOG_CHARACTERS:]
            )
        return text

    def _wait(
        self, until: float, lock: int | None, argv: Sequence[str], output: IO[bytes]
    ) -> tuple[int, str]:
        """Run one program to its end; return its exit code and a sentence about that."""
        with exempt_program(
            argv,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        ) as process:
            self._running.add(process)
            if self._stopped.is_set():
                # ``stop`` has not seen it
                _kill(process)
            try:
                code = process.wait(max(1.0, until - time.monotonic()))
                how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                return code, f"{Path(argv[0]).name} {argv[1]} {how}"
            except subprocess.TimeoutExpired:
                _kill(process)
                process.wait()
                return 1, f"it took longer than {self._settings.build_seconds:g} s"
            finally:
                self._running.discard(process)


def find_uv() -> str | None:
    """The program uv: beside this Python, where pip puts it, or on PATH."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv")


def find_python(version: str | None, which: Callable[[str], str | None] = shutil.which) -> str:
    """A Python of this version (None: this one). Raises BuildError."""
    own = ".".join(str(part) for part in sys.version_info[:3])
    if version is None or f"{own}.".startswith(f"{version}."):
        return sys.executable
    found = which(f"python{version}")
    if found is None:
        raise BuildError(f"there is no Python {version} here: the site's own is {own}")
    return found


def base_of(prefix: Path) -> Path | None:
    """Where the Python is that a virtual environment was made from; None if it is none."""
    try:
        lines = (prefix / "pyvenv.cfg").read_text().splitlines()
    except OSError:
        return None
    pairs = (line.partition("=") for line in lines)
    return next((Path(value.strip()).parent for name, _, value in pairs if name.strip() == "home"), None)


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
