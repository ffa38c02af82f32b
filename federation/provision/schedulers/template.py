"""The job script: the same body for every batch system, below that system's own lines.

Nothing that a person wrote is interpreted by a shell: directives are comments, checked to be one line; setup
lines and launchers are split into words, and every word is quoted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from umbel.protocol.errors import BadRequest

from .base import JobSpec

#: One line of printable characters.
_LINE = re.compile(r"[ -~]{1,500}\Z")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}\Z")


def body(spec: JobSpec) -> str:
    """The lines that run the worker, after the batch system's own lines. Raises BadRequest."""
    launcher = [word.replace("{nodes}", str(spec.nodes)) for word in spec.launcher]
    command = " ".join(quoted(word) for word in [*launcher, *spec.words])
    lines = [
        "umask 077",
        # from here, not from the submission: the job may have waited for days
        f"walltime_end=$(( $(date +%s) + {int(spec.walltime)} ))",
        f"export UMBEL_BLOCK={shlex.quote(spec.name)}",
        *(setup_line(line) for line in spec.setup),
        f'exec {command} --block {shlex.quote(spec.name)} --walltime-end "$walltime_end"',
    ]
    return "\n".join(lines) + "\n"


def script(spec: JobSpec, prefix: str, lines: Sequence[str], reserved: str) -> str:
    """A whole script. ``prefix``: such as ``#SBATCH``; ``reserved``: what the owner may not set."""
    own = [checked(directive, reserved) for directive in spec.directives]
    head = [f"{prefix} {line}" for line in [*lines, *own]]
    return "\n".join(["#!/bin/sh", *head, body(spec)])


def checked(directive: str, reserved: str) -> str:
    """A directive that is one harmless line. Raises BadRequest."""
    if not _LINE.match(directive):
        raise BadRequest(f"directive {directive[:60]!r} is not one line of printable characters")
    if re.match(reserved, directive.strip()):
        raise BadRequest(
            f"directive '{directive[:60]}' sets what Umbel sets itself; use the endpoint's policy for it"
        )
    return directive.strip()


def setup_line(line: str) -> str:
    """A setup line as one simple command with quoted words. Raises BadRequest."""
    if not _LINE.match(line):
        raise BadRequest(f"setup line {line[:60]!r} is not one line of printable characters")
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise BadRequest(f"setup line '{line[:60]}': {error}") from None
    if not words:
        raise BadRequest("a setup line is empty")
    # `export A=b` and `module load x` are the shell's own commands; quoting their words does not hinder them
    return " ".join(quoted(word) for word in words)


def quoted(word: str) -> str:
    """A word for a shell; a leading ``~/`` still means the home of the account."""
    return '"$HOME"/' + shlex.quote(word[2:]) if word.startswith("~/") else shlex.quote(word)


def hosts(names: Sequence[str]) -> list[str]:
    """The names that are names of hosts: what a site told us is not to be trusted either."""
    return [name for name in names if _HOST.match(name)]
