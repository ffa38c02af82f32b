"""Builds an environment, with uv if it is installed, otherwise with venv and pip."""

from __future__ import annotations

import hashlib
import json
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

#: Lines and characters of a build's log that are shown after a failure.
LOG_LINES, LOG_CHARACTERS = 12, 1500
#: A signal that stops the worker may reach its builds first: a killed build waits this long (seconds) for
#: ``stop``.
STOP_SECONDS = 3.0


class Builder:
    """Builds environments by a site's settings; ``environ``: variables of the build programs."""

    def __init__(self, settings: Environments, environ: Mapping[str, str]):
        self._settings = settings
        self._environ = {name: value for name, value in environ.items() if name != "VIRTUAL_ENV"}
        self._environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
        if "UV_CACHE_DIR" not in environ:
            # a cache of its own would grow without bound; a site that wants one sets the variable
            self._environ["UV_NO_CACHE"] = "1"
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = threading.Event()

    @property
    def digest(self) -> str:
        """Digest of all that a build depends on beside the environment itself."""
        chosen = self._settings
        parts = [chosen.options, chosen.sources, chosen.build_seconds, self._environ, find_uv(), sys.version]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def make(self, environment: Environment, directory: Path, lock: int | None = None) -> tuple[str, str]:
        """Fill ``directory``; return its interpreter and the base of that. Raises BuildError, OSError.

        ``lock``: a file descriptor that each program inherits. Raises Interrupted when ``stop`` is called.
        """
        version = environment.python
        if version is not None and tuple(int(part) for part in version.split(".")[:2]) < OLDEST_PYTHON:
            raise BuildError(f"Python {version} is too old to run calls: 3.10 or later is required")
        if not self._settings.sources and any("@" in item for item in environment.requirements):
            raise BuildError("requirements with a URL need 'sources = true' in the site's [environments]")
        uv = find_uv()
        run = partial(self._run, time.monotonic() + self._settings.build_seconds, lock)
        python = directory / "bin" / "python"
        options = list(self._settings.options)
        if not self._settings.sources:
            options += ["--only-binary", ":all:"]
        # pass the requirements in a file, so that none of them can be an option
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
            wanted.write("\n".join(environment.requirements) + "\n")
            wanted.flush()
            if uv:
                run([uv, "venv", "--python", version or sys.executable, str(directory)])
                install = [uv, "pip", "install", "--python", str(python), *options]
            else:
                run([find_python(version), "-m", "venv", str(directory)])
                install = [str(python), "-m", "pip", "install", *options]
            # before anything is installed, because packages can change this file or the interpreter
            base = base_of(directory) or directory
            if environment.requirements:
                run([*install, "-r", wanted.name])
        return str(python), str(base)

    def stop(self) -> None:
        """Stop running builds and start no others."""
        self._stopped.set()
        for process in list(self._running):
            _kill(process)

    def _run(self, until: float, lock: int | None, argv: Sequence[str]) -> str:
        """Run one program; return its output. Raises BuildError with the last lines of it, or Interrupted."""
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
        """Run one program to its end; return its exit code and a sentence about it."""
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
                # ``stop`` has not seen this process
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
    """Return the program uv: next to this Python, where pip installs it, or on PATH."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv")


def find_python(version: str | None, which: Callable[[str], str | None] = shutil.which) -> str:
    """Return a Python of this version (None: this one). Raises BuildError."""
    own = ".".join(str(part) for part in sys.version_info[:3])
    if version is None or f"{own}.".startswith(f"{version}."):
        return sys.executable
    found = which(f"python{version}")
    if found is None:
        raise BuildError(f"the endpoint has no Python {version}; its own is {own}")
    return found


def base_of(prefix: Path) -> Path | None:
    """Return the directory of the Python that a virtual environment is based on; None if it is not one."""
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
