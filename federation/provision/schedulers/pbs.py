"""PBS Pro and OpenPBS. Parses text output, as the JSON may be invalid (escapes, leading zeros)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..connection.shell import Shell
from ..planning.model import BlockState
from .base import JOB_NAME, Job, JobSpec, NoAnswer, hh_mm_ss, parse_duration, parsing, query, run_submit
from .template import script

_RESERVED = r"(-N\b|-o\b|-e\b|-j\b|-J\b|-l\s*walltime|-r\b|-S\b)"
_S = BlockState
_STATES = {
    "Q": _S.PENDING, "W": _S.PENDING, "T": _S.PENDING, "M": _S.PENDING, "H": _S.HELD,
    "S": _S.HELD, "U": _S.HELD, "R": _S.RUNNING, "B": _S.RUNNING, "E": _S.RUNNING,
}  # fmt: skip
_UNKNOWN = r"unknown job id|job has finished|unknown job"
#: Active jobs and the known ended ones in one query. Without ids, qstat would list all users' jobs.
_QSTAT = (
    'ids="$(qselect -u "$(id -un)")" || exit 70; set -- $ids "$@"; [ $# -eq 0 ] || exec qstat -x -f -w "$@"'
)


class PBS:
    """PBS Pro, OpenPBS."""

    kind = "pbs"

    def script(self, spec: JobSpec) -> str:
        """Return the job's script. Raises BadRequest."""
        lines = [f"-N {spec.name}", f"-o {spec.out}", f"-e {spec.err}", "-r n", "-S /bin/sh"]
        lines.append(f"-l walltime={hh_mm_ss(spec.walltime)}")
        if not any(re.match(r"-l\s*(select|nodes)", directive) for directive in spec.directives):
            lines.append(f"-l select={spec.nodes}:ncpus={spec.slots_per_node}")
        if spec.nodes > 1 and not spec.launcher:
            spec = JobSpec(**{**spec.__dict__, "launcher": ("pbsdsh", "--")})
        return script(spec, "#PBS", lines, _RESERVED)

    def submit(self, shell: Shell, spec: JobSpec) -> str:
        """Submit a job; return its id. Raises Refused, LimitReached, OutcomeUnknown."""
        return run_submit(shell, ["qsub"], r"^(\d+\.?[A-Za-z0-9_.-]*)\s*$", input=self.script(spec))

    def jobs(self, shell: Shell, known: Sequence[str]) -> list[Job]:
        """Return the account's jobs that Umbel submitted. Raises NoAnswer."""
        # a purged id makes qstat fail although it lists all others
        out = query(shell, ["sh", "-c", _QSTAT, "sh", *known], accept=_UNKNOWN)
        if out.strip() and "Job Id: " not in out:
            raise NoAnswer(f"qstat: unexpected output: {out[:200]!r}")
        with parsing("qstat", out):
            jobs = [_job(record) for record in re.split(r"^Job Id: ", out, flags=re.MULTILINE)[1:]]
        return list({job.id: job for job in jobs if job is not None}.values())

    def cancel(self, shell: Shell, ids: Sequence[str]) -> None:
        """Cancel jobs. Raises NoAnswer."""
        if ids:
            query(shell, ["qdel", *ids], accept=_UNKNOWN + "|invalid state")


def _job(record: str) -> Job | None:
    id, _, rest = record.partition("\n")
    # values may continue on lines that begin with a tab
    values = dict(re.findall(r"^ {4}(\S+) = (.*(?:\n\t.*)*)", rest, re.MULTILINE))
    name = values.get("Job_Name", "")
    if not JOB_NAME.match(name):
        return None
    letter = values.get("job_state")
    if letter is None:
        raise NoAnswer(f"qstat: job {id.strip()} has no state")
    code = values.get("Exit_status")
    state = (
        _end(int(code) if code else None) if letter in ("F", "X", "C") else _STATES.get(letter, _S.UNKNOWN)
    )
    hosts = re.findall(r"([A-Za-z0-9_.-]+)/\d+", values.get("exec_host", "").replace("\n\t", ""))
    comment = values.get("comment", "").replace("\n\t", "")
    ran = parse_duration(values.get("resources_used.walltime", ""))
    return Job(id.strip(), name, state, comment or letter, tuple(dict.fromkeys(hosts)), ran)


def _end(code: int | None) -> BlockState:
    if code is None:
        return _S.CANCELLED  # deleted before it ran
    if code == 0:
        return _S.COMPLETED
    if code in (265, 271):
        return _S.CANCELLED  # 256 + signal 9 or 15: qdel and the time limit cannot be told apart
    return _S.NODE_FAIL if code < 0 else _S.FAILED
