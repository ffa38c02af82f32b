"""The job script: directives of the batch system, then the same body for every batch system.

No user input is interpreted by a shell: directives are comments of one checked line; setup lines and
launchers are split into words, and every word is quoted.
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
    """Return the lines that run the worker. Raises BadRequest."""
    launcher = [word.replace("{nodes}", str(spec.nodes)) for word in spec.launcher]
    command = " ".join(quoted(word) for word in [*launcher, *spec.command])
    lines = [
        "umask 077",
        # from the start of the job, not from its submission: it may have been pending for days
        f"walltime_end=$(( $(date +%s) + {int(spec.walltime)} ))",
        f"export UMBEL_BLOCK={shlex.quote(spec.name)}",
        *(setup_line(line) for line in spec.setup),
        f'exec {command} --block {shlex.quote(spec.name)} --walltime-end "$walltime_end"',
    ]
    return "\n".join(lines) + "\n"


def script(spec: JobSpec, prefix: str, lines: Sequence[str], reserved: str) -> str:
    """Return a complete script. ``prefix``: e.g. ``#SBATCH``; ``reserved``: forbidden directives."""
    own = [checked_directive(directive, reserved) for directive in spec.directives]
    head = [f"{prefix} {line}" for line in [*lines, *own]]
    return "\n".join(["#!/bin/sh", *head, body(spec)])


def checked_directive(directive: str, reserved: str) -> str:
    """Return a directive after checking it. Raises BadRequest."""
    if not _LINE.match(directive):
        raise BadRequest(f"site: directive {directive[:60]!r} must be one line of printable ASCII characters")
    if re.match(reserved, directive.strip()):
        raise BadRequest(
            f"site: directive '{directive[:60]}' is reserved: Umbel sets it from the endpoint's policy"
        )
    return directive.strip()


def setup_line(line: str) -> str:
    """Return a setup line as one command with quoted words. Raises BadRequest."""
    if not _LINE.match(line):
        raise BadRequest(f"site: setup line {line[:60]!r} must be one line of printable ASCII characters")
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise BadRequest(f"site: setup line '{line[:60]}': {error}") from None
    if not words:
        raise BadRequest("site: setup lines must not be empty")
    # `export A=b` and `module load x` are shell commands; they work with quoted words, too
    return " ".join(quoted(word) for word in words)


def quoted(word: str) -> str:
    """Quote a word for a shell; a leading ``~/`` still expands to the home directory."""
    return '"$HOME"/' + shlex.quote(word[2:]) if word.startswith("~/") else shlex.quote(word)


def valid_hosts(names: Sequence[str]) -> list[str]:
    """Return only the valid host names: the output of a site is not trusted."""
    return [name for name in names if _HOST.match(name)]
