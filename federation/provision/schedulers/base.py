"""The interface of all batch systems, its errors, and the description of a job."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from ..connection.shell import CommandResult, Shell, SiteError, Unreachable
from ..planning.model import BlockState

#: Every job is named ``umbel-<endpoint>-<block>``.
JOB_NAME = re.compile(r"umbel-[0-9a-f]{8}-[0-9a-f]{8}\Z")
#: Time limit of a batch system's command, seconds: with slurmctld down, clients wait 9 s or longer.
COMMAND_TIMEOUT = 60.0
#: Messages of batch systems when the account has reached its job limit.
_LIMITS = re.compile(
    r"submit ?limit|maxsubmit|job limit|limit (?:has been )?(?:exceeded|reached)|exceeds?.{0,40}limit"
    r"|only \d+ (?:active )?jobs are allowed"
    r"|max(?:imum)? number of (?:active |queued )?jobs|max_u_jobs|too many jobs|job slot limit"
    r"|would exceed|quota",
    re.IGNORECASE,
)
#: Messages that match but are permanent errors: a job may not request more time than the site allows.
_NO_LIMITS = re.compile(r"requested time limit is invalid", re.IGNORECASE)
#: Messages after which it is unknown whether the request was carried out.
_UNCERTAIN = re.compile(
    r"timed? ?out|unable to contact|connection (?:refused|reset|timed|closed)|cannot connect|can't connect"
    r"|communication failure|not respond|please wait|temporarily unavailable"
    r"|failed to (?:contact|connect)"
    r"|end of file|premature",
    re.IGNORECASE,
)


class Refused(SiteError):
    """The batch system has rejected a job."""


class LimitReached(Refused):
    """The batch system has rejected a job because the account has reached its job limit."""


class OutcomeUnknown(SiteError):
    """A job was submitted, and it is unknown whether the batch system has it."""


class NoAnswer(SiteError):
    """The batch system has not answered a query; this says nothing about the jobs."""


@dataclass(frozen=True)
class JobSpec:
    """A job to submit. ``command``: the worker's command line; ``walltime``: seconds.

    ``folder``: directory of scripts and output on the site; ``setup``: commands to run before the worker (no
    shell syntax: words are quoted); ``directives``: lines for the batch system; ``launcher``: command that
    starts the worker on every node, with ``{nodes}``; ``exclude``: nodes to avoid.
    """

    name: str
    command: tuple[str, ...]
    folder: str
    nodes: int = 1
    slots_per_node: int = 1
    walltime: float = 3600.0
    directives: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not JOB_NAME.match(self.name):
            raise ValueError(f"invalid job name '{self.name}'")

    @property
    def out(self) -> str:
        """File of the job's standard output."""
        return f"{self.folder}/{self.name}.out"

    @property
    def err(self) -> str:
        """File of the job's standard error."""
        return f"{self.folder}/{self.name}.err"


@dataclass(frozen=True)
class Job:
    """A job as reported by the batch system. ``ran``: run time in seconds; None: not reported."""

    id: str
    name: str
    state: BlockState
    reason: str = ""
    hosts: tuple[str, ...] = ()
    ran: float | None = None


class Scheduler(Protocol):
    """One batch system. Methods run commands in the login node's ``shell``; all may raise Unreachable."""

    #: Its name for ``umbel endpoint add --scheduler``.
    kind: str

    def script(self, spec: JobSpec) -> str:
        """Return the job's script, as printed by ``--dry-run``. Raises BadRequest."""
        ...

    def submit(self, shell: Shell, spec: JobSpec) -> str:
        """Submit a job; return its id. Raises Refused, LimitReached, OutcomeUnknown."""
        ...

    def jobs(self, shell: Shell, known: Sequence[str]) -> list[Job]:
        """Return the account's jobs that Umbel submitted, using one command. Raises NoAnswer.

        ``known``: ids of the jobs that were active at the last poll; those that have ended since are included
        if the batch system still reports them.
        """
        ...

    def cancel(self, shell: Shell, ids: Sequence[str]) -> None:
        """Cancel jobs with one command; jobs that have ended are ignored. Raises NoAnswer."""
        ...


def run_submit(shell: Shell, words: Sequence[str], pattern: str, *, input: str = "") -> str:
    """Run a submission command; return the job id that ``pattern`` matches in its output.

    Raises Refused, LimitReached, OutcomeUnknown.
    """
    try:
        done = shell.run(words, input=input, timeout=COMMAND_TIMEOUT)
    except Unreachable as error:
        raise OutcomeUnknown(error.message) from None
    if done.code != 0:
        raise submission_error(words[0], done)
    found = re.search(pattern, done.out, re.MULTILINE)
    if not found:
        raise OutcomeUnknown(f"{words[0]} printed no job id: {done.message!r}")
    return found[1]


def submission_error(command: str, done: CommandResult) -> SiteError:
    """Return the error for a failed submission command."""
    text = f"{command}: {done.message}"
    if _LIMITS.search(text) and not _NO_LIMITS.search(text):
        return LimitReached(text)
    # 124, 137, 143: the command was killed and may have submitted the job before
    if _UNCERTAIN.search(text) or done.code in (124, 137, 143) or done.code < 0:
        return OutcomeUnknown(text)
    return Refused(text)


def query(shell: Shell, words: Sequence[str], *, accept: str = "", input: str = "") -> str:
    """Run a query; return its output. Raises NoAnswer if it fails without output matching ``accept``."""
    done = shell.run(words, input=input, timeout=COMMAND_TIMEOUT)
    if done.code != 0 and not (accept and re.search(accept, done.err + done.out, re.IGNORECASE)):
        raise NoAnswer(f"{words[0]}: {done.message}")
    return done.out


@contextmanager
def parsing(command: str, out: str) -> Iterator[None]:
    """Turn parse errors into NoAnswer: an unreadable answer says nothing about the jobs."""
    try:
        yield
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise NoAnswer(f"{command}: unexpected output ({error!r}): {out[:200]!r}") from None


def parse_duration(text: str) -> float | None:
    """Return the seconds of ``1-02:03:04``, ``02:03:04`` or ``03:04``; None for anything else."""
    found = re.match(r"(?:(\d{1,6})-)?(?:(\d{1,8}):)?(\d{1,8}):(\d{1,8})\Z", text.strip())
    if not found:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return days * 86400.0 + hours * 3600.0 + minutes * 60.0 + rest


def hh_mm_ss(walltime: float) -> str:
    """Format seconds as ``HH:MM:SS``, rounded up to a minute."""
    minutes = -(-int(walltime) // 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"
