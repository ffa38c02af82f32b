"""What all batch systems have in common: the contract, the errors, and what a job is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from ..connection.shell import Done, Shell, SiteError, Unreachable
from ..planning.model import BlockState

#: Every job of ours is called ``umbel-<endpoint>-<block>``.
JOB_NAME = re.compile(r"umbel-[0-9a-f]{8}-[0-9a-f]{8}\Z")
#: Seconds that a batch system's command may take: with slurmctld down, clients wait for 9 s and more.
COMMAND_TIMEOUT = 60.0
#: What batch systems say when the account has as many jobs as it may have.
_LIMITS = re.compile(
    r"submit ?limit|maxsubmit|job limit|limit (?:has been )?(?:exceeded|reached)|exceeds?.{0,40}limit"
    r"|only \d+ (?:active )?jobs are allowed"
    r"|max(?:imum)? number of (?:active |queued )?jobs|max_u_jobs|too many jobs|job slot limit"
    r"|would exceed|quota",
    re.IGNORECASE,
)
#: What sounds like one of these and is none: a job that asks for more time than any may have never gets it.
_NO_LIMITS = re.compile(r"requested time limit is invalid", re.IGNORECASE)
#: What they say when the request may or may not have arrived.
_DOUBTS = re.compile(
    r"timed? ?out|unable to contact|connection (?:refused|reset|timed|closed)|cannot connect|can't connect"
    r"|communication failure|not respond|please wait|temporarily unavailable"
    r"|failed to (?:contact|connect)"
    r"|end of file|premature",
    re.IGNORECASE,
)


class Refused(SiteError):
    """The batch system has refused a job."""


class LimitReached(Refused):
    """The batch system has refused a job because the account has as many as it may have."""


class InDoubt(SiteError):
    """A job was handed over and whether the batch system has it is not known."""


class Unanswered(SiteError):
    """The batch system has not answered a question; nothing follows from that for the jobs."""


@dataclass(frozen=True)
class JobSpec:
    """A job to be submitted. ``words``: the worker's command; ``walltime``: seconds.

    ``folder``: where script and output lie on the site; ``setup``: simple commands before the worker (no
    shell syntax: words are quoted); ``directives``: lines for the batch system; ``launcher``: words before
    the command that start it on every node, with ``{nodes}``; ``exclude``: nodes to avoid.
    """

    name: str
    words: tuple[str, ...]
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
            raise ValueError(f"'{self.name}' is no name of a job")

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
    """A job as the batch system tells of it. ``ran``: seconds since its start, None: it does not say."""

    id: str
    name: str
    state: BlockState
    reason: str = ""
    hosts: tuple[str, ...] = ()
    ran: float | None = None


class Scheduler(Protocol):
    """One batch system. Methods take the ``shell`` of the login node; all may raise Unreachable."""

    #: What ``umbel endpoint add --scheduler`` calls it.
    kind: str

    def script(self, spec: JobSpec) -> str:
        """The job's script, as ``--dry-run`` shows it. Raises BadRequest."""
        ...

    def submit(self, shell: Shell, spec: JobSpec) -> str:
        """Hand a job over; return its id. Raises Refused, LimitReached, InDoubt."""
        ...

    def jobs(self, shell: Shell, known: Sequence[str]) -> list[Job]:
        """All jobs of the account with names of ours, with one command. Raises Unanswered.

        ``known``: ids of jobs that were active when last looked: of these also those that have ended, as
        far as the batch system still tells of them.
        """
        ...

    def cancel(self, shell: Shell, ids: Sequence[str]) -> None:
        """End jobs, with one command; those that are gone already are fine. Raises Unanswered."""
        ...


def submitted(shell: Shell, words: Sequence[str], pattern: str, *, input: str = "") -> str:
    """Run a submission; return what ``pattern`` finds in its output.

    Raises Refused, LimitReached, InDoubt.
    """
    try:
        done = shell.run(words, input=input, timeout=COMMAND_TIMEOUT)
    except Unreachable as error:
        raise InDoubt(error.message) from None
    if done.code != 0:
        raise refusal(words[0], done)
    found = re.search(pattern, done.out, re.MULTILINE)
    if not found:
        raise InDoubt(f"{words[0]} answered {done.said!r}, in which there is no job id")
    return found[1]


def refusal(command: str, done: Done) -> SiteError:
    """The error that a failed submission means."""
    said = f"{command}: {done.said}"
    if _LIMITS.search(said) and not _NO_LIMITS.search(said):
        return LimitReached(said)
    # 124, 137, 143: the command was cut off, and may have done its work before
    if _DOUBTS.search(said) or done.code in (124, 137, 143) or done.code < 0:
        return InDoubt(said)
    return Refused(said)


def asked(shell: Shell, words: Sequence[str], *, fine: str = "", input: str = "") -> str:
    """Run a question; return its output. Raises Unanswered if it fails and does not say ``fine``."""
    done = shell.run(words, input=input, timeout=COMMAND_TIMEOUT)
    if done.code != 0 and not (fine and re.search(fine, done.err + done.out, re.IGNORECASE)):
        raise Unanswered(f"{words[0]}: {done.said}")
    return done.out


@contextmanager
def parsing(command: str, out: str) -> Iterator[None]:
    """What cannot be understood is no answer: never a statement about jobs."""
    try:
        yield
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise Unanswered(f"{command}: answer not understood ({error!r}): {out[:200]!r}") from None


def seconds(text: str) -> float | None:
    """Seconds in a duration such as ``1-02:03:04``, ``02:03:04`` or ``03:04``; None for anything else."""
    found = re.match(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)\Z", text.strip())
    if not found:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return days * 86400.0 + hours * 3600.0 + minutes * 60.0 + rest


def clock(walltime: float) -> str:
    """Seconds as ``HH:MM:SS``, rounded up to a minute."""
    minutes = -(-int(walltime) // 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"
