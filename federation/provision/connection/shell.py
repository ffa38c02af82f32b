"""Commands on a site: always a list of words, never a string that a shell interprets."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from umbel.protocol.errors import ServiceUnavailable

#: Default time limit of a command, seconds.
TIMEOUT = 60.0


class SiteError(ServiceUnavailable):
    """An operation on a site failed."""


class Unreachable(SiteError):
    """The site cannot be reached or did not answer in time; it is unknown whether the command ran."""


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """Its error output, else its output, else its exit code; at most 500 characters."""
        return (self.err.strip() or self.out.strip() or f"exit code {self.code}")[-500:]


class Shell(Protocol):
    """One account on one machine. Paths are absolute, or relative to the account's home.

    Every method raises Unreachable when the machine does not answer in time.
    """

    def run(self, words: Sequence[str], *, input: str = "", timeout: float = TIMEOUT) -> CommandResult:
        """Run a command and wait until it ends. ``timeout``: seconds."""
        ...

    def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Write a file atomically; create its directory. Raises SiteError."""
        ...

    def read(self, path: str, tail: int = 65536) -> bytes:
        """Return the last ``tail`` bytes of a file; b"" if it does not exist."""
        ...


class LocalShell:
    """This account on this machine. ``home``: base of relative paths; ``environ``: additional variables."""

    def __init__(self, home: Path | None = None, environ: Mapping[str, str] | None = None):
        self._home = home or Path.home()
        self._environ = dict(environ or {})

    def run(self, words: Sequence[str], *, input: str = "", timeout: float = TIMEOUT) -> CommandResult:
        """Run a command and wait until it ends. Raises Unreachable."""
        try:
            done = subprocess.run(
                list(words),
                input=input.encode(),
                capture_output=True,
                timeout=timeout,
                cwd=self._home,
                env={**os.environ, **self._environ},
            )
        except subprocess.TimeoutExpired:
            raise Unreachable(
                f"command '{shlex.join(words)[:80]}' did not end within {timeout:g} s"
            ) from None
        except OSError as error:
            return CommandResult(127, "", f"{words[0]}: {error.strerror}")
        return CommandResult(
            done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Write a file atomically; create its directory. Raises SiteError."""
        file = self._home / path
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
            with os.fdopen(descriptor, "wb") as out:
                out.write(data)
            os.replace(draft, file)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise SiteError(f"cannot write {file}: {error.strerror}") from None

    def read(self, path: str, tail: int = 65536) -> bytes:
        """Return the last ``tail`` bytes of a file; b"" if it does not exist."""
        try:
            with (self._home / path).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - tail))
                return file.read()
        except OSError:
            return b""
