"""IBM Spectrum LSF."""

from __future__ import annotations

from collections.abc import Sequence

from umbel.protocol.errors import BadRequest

from ..connection.shell import Shell
from ..planning.model import BlockState
from .base import JOB_NAME, Job, JobSpec, parsing, query, run_submit
from .template import script, valid_hosts

_RESERVED = r"(-J\b|-o\b|-oo\b|-e\b|-eo\b|-W\b|-n\b|-rn\b|-K\b|-I)"
_S = BlockState
_STATES = {
    "PEND": _S.PENDING, "PROV": _S.PENDING, "WAIT": _S.PENDING, "PSUSP": _S.HELD, "USUSP": _S.HELD,
    "SSUSP": _S.HELD, "RUN": _S.RUNNING, "DONE": _S.COMPLETED, "ZOMBI": _S.NODE_FAIL, "UNKWN": _S.UNKNOWN,
}  # fmt: skip
_EXITS = {
    "TERM_RUNLIMIT": _S.TIMEOUT, "TERM_DEADLINE": _S.TIMEOUT, "TERM_OWNER": _S.CANCELLED,
    "TERM_ADMIN": _S.CANCELLED, "TERM_FORCE_OWNER": _S.CANCELLED, "TERM_FORCE_ADMIN": _S.CANCELLED,
    "TERM_MEMLIMIT": _S.OUT_OF_MEMORY, "TERM_PREEMPT": _S.PREEMPTED, "TERM_REQUEUE_ADMIN": _S.PREEMPTED,
    "TERM_ZOMBIE": _S.NODE_FAIL,
}  # fmt: skip


class LSF:
    """LSF 10 or later."""

    kind = "lsf"

    def script(self, spec: JobSpec) -> str:
        """Return the job's script. Raises BadRequest."""
        if spec.nodes > 1 and not spec.launcher:
            raise BadRequest(
                "site: on LSF, blocks of several nodes need a launcher, for example 'mpirun -ppn 1'"
            )
        minutes = -(-int(spec.walltime) // 60)
        lines = [
            f"-J {spec.name}",
            f"-o {spec.out}",
            f"-e {spec.err}",
            f"-W {minutes // 60}:{minutes % 60:02d}",
        ]
        lines += [f"-n {spec.nodes * spec.slots_per_node}", "-rn", f'-R "span[ptile={spec.slots_per_node}]"']
        avoided = valid_hosts(spec.exclude)
        if avoided:
            lines.append('-R "select[' + " && ".join(f"hname!='{host}'" for host in avoided) + ']"')
        return script(spec, "#BSUB", lines, _RESERVED)

    def submit(self, shell: Shell, spec: JobSpec) -> str:
        """Submit a job; return its id. Raises Refused, LimitReached, OutcomeUnknown."""
        return run_submit(shell, ["bsub"], r"Job <(\d+)> is submitted", input=self.script(spec))

    def jobs(self, shell: Shell, known: Sequence[str]) -> list[Job]:
        """Return the account's jobs that Umbel submitted, ended ones for an hour. Raises NoAnswer."""
        # not JSON, which is invalid if a reason contains quotes; the reason is last because it may contain
        # '|'
        fields = 'jobid stat exec_host job_name exit_reason delimiter="|"'
        words = ["env", "-u", "LSB_BJOBS_FORMAT", "bjobs", "-a", "-noheader", "-o", fields]
        out = query(shell, words, accept=r"no (unfinished )?job found|no job")
        found = []
        with parsing("bjobs", out):
            for line in filter(None, map(str.strip, out.splitlines())):
                if line.lower().startswith("no ") and "job" in line:
                    continue
                id, stat, where, name, reason = line.split("|", 4)
                if JOB_NAME.match(name):
                    found.append(Job(id, name, state_of(stat, reason), reason.strip("-"), _hosts(where)))
        return found

    def cancel(self, shell: Shell, ids: Sequence[str]) -> None:
        """Cancel jobs. Raises NoAnswer."""
        if ids:
            query(
                shell,
                ["bkill", *ids],
                accept=r"already finished|no matching job|being terminated|being signaled",
            )


def state_of(stat: str, reason: str) -> BlockState:
    """Convert LSF's state and exit reason."""
    if stat == "EXIT":
        return next((state for word, state in _EXITS.items() if word in reason), _S.FAILED)
    return _STATES.get(stat, _S.UNKNOWN)


def _hosts(where: str) -> tuple[str, ...]:
    """Return the host names in ``4*cn1:4*cn2`` or ``-``."""
    names = [part.rpartition("*")[2] for part in where.split(":")]
    return tuple(dict.fromkeys(name for name in names if name.strip("-")))
