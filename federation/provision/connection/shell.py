"""Commands on a site: always a list of words, never free text for a shell to interpret."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from umbel.protocol.errors import ServiceUnavailable

#: Seconds that a command may take unless its caller says otherwise.
TIMEOUT = 60.0


class SiteError(ServiceUnavailable):
    """Something on a site did not work."""


class Unreachable(SiteError):
    """The site cannot be reached, or has not answered in time; whether a command ran there is not known."""


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Its complaint, shortened."""
        return (self.err.strip() or self.out.strip() or f"exit code {self.code}")[-500:]


class Shell(Protocol):
    """One account on one machine. Paths are absolute, or relative to the account's home.

    Every method raises Unreachable when the machine does not answer in time.
    """

    def run(self, words: Sequence[str], *, input: str = "", timeout: float = TIMEOUT) -> Done:
        """Run a command to its end."""
        ...

    def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Write a file, whole or not at all, with its folder. Raises SiteError."""
        ...

    def read(self, path: str, tail: int = 65536) -> bytes:
        """The last ``tail`` bytes of a file; b"" when there is none."""
        ...


class LocalShell:
    """This account on this machine. ``home``: where relative paths begin; ``environ``: added variables."""

    def __init__(self, home: Path | None = None, environ: Mapping[str, str] | None = None):
        self._home = home or Path.home()
        self._environ = dict(environ or {})

    def run(self, words: Sequence[str], *, input: str = "", timeout: float = TIMEOUT) -> Done:
        """Run a command to its end."""
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
            raise Unreachable(f"'{shlex.join(words)[:80]}' has not ended within {timeout:g} s") from None
        except OSError as error:
            return Done(127, "", f"{words[0]}: {error.strerror}")
        return Done(
            done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Write a file, whole or not at all, with its folder. Raises SiteError."""
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
            raise SiteError(f"{file} cannot be written: {error.strerror}") from None

    def read(self, path: str, tail: int = 65536) -> bytes:
        """The last ``tail`` bytes of a file; b"" when there is none."""
        try:
            with (self._home / path).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - tail))
                return file.read()
        except OSError:
            return b""
