"""GridEngine and its descendants (SGE, Son of GridEngine, Univa, Altair)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from umbel.protocol.errors import BadRequest

from ..connection.shell import Shell
from ..planning.model import BlockState
from .base import JOB_NAME, Job, JobSpec, NoAnswer, hh_mm_ss, parsing, query, run_submit
from .template import script, valid_hosts

_RESERVED = r"(-N\b|-o\b|-e\b|-j\b|-t\b|-terse|-b\b|-sync|-S\b|-l\s+.*(h_rt|s_rt)=)"
_S = BlockState


class GridEngine:
    """GridEngine. Blocks of several nodes need a parallel environment: the directive ``-pe mpi 4``."""

    kind = "gridengine"

    def script(self, spec: JobSpec) -> str:
        """Return the job's script. Raises BadRequest."""
        if spec.nodes > 1 and not (spec.launcher and any(d.startswith("-pe ") for d in spec.directives)):
            raise BadRequest(
                "site: blocks of several nodes need a directive '-pe ENVIRONMENT SLOTS' and a launcher"
            )
        lines = [f"-N {spec.name}", f"-o {spec.out}", f"-e {spec.err}", "-S /bin/sh", "-r n"]
        lines.append(f"-l h_rt={hh_mm_ss(spec.walltime)}")
        avoided = valid_hosts(spec.exclude)
        if avoided:
            lines.append("-l h=!(" + "|".join(avoided) + ")")
        return script(spec, "#$", lines, _RESERVED)

    def submit(self, shell: Shell, spec: JobSpec) -> str:
        """Submit a job; return its id. Raises Refused, LimitReached, OutcomeUnknown."""
        return run_submit(shell, ["qsub", "-terse"], r"^(\d+)(?:\.\d+-\d+:\d+)?\s*$", input=self.script(spec))

    def jobs(self, shell: Shell, known: Sequence[str]) -> list[Job]:
        """Return the account's jobs that Umbel submitted. Raises NoAnswer."""
        # XML, because the table truncates names to ten characters
        out = query(shell, ["env", "SGE_LONG_QNAMES=1", "qstat", "-xml"])
        start = out.find("<?xml")
        with parsing("qstat", out):
            try:
                root = ElementTree.fromstring(out[max(start, 0) :])
            except ElementTree.ParseError as error:
                raise ValueError(error) from None
            if root.tag != "job_info":
                raise ValueError(f"<{root.tag}> instead of <job_info>")
            found = [job for item in root.iter("job_list") if (job := _job(item)) is not None]
        gone = sorted(set(known) - {job.id for job in found})
        return found + [job for id in gone if (job := self._ended(shell, id)) is not None]

    def _ended(self, shell: Shell, id: str) -> Job | None:
        """Return how a job ended; None until accounting data is written, some 15 s later."""
        done = shell.run(["qacct", "-j", id])
        values = dict(re.findall(r"^(\w+) +(.*?)\s*$", done.out, re.MULTILINE)) if done.code == 0 else {}
        name = values.get("jobname", "")
        if not JOB_NAME.match(name):
            return None
        failed, code = values.get("failed", "0").split(" ")[0], values.get("exit_status", "0").split(" ")[0]
        wall = re.match(r"\d{1,12}(\.\d+)?", values.get("ru_wallclock", ""))
        state = _S.COMPLETED if (failed, code) == ("0", "0") else _S.FAILED
        if failed == "37" or (failed == "100" and code == "137"):
            state = _S.TIMEOUT if failed == "37" or "h_rt" in values.get("failed", "") else _S.CANCELLED
        host = values.get("hostname", "")
        reason = f"failed {values.get('failed', '?')}, exit status {code}"
        return Job(id, name, state, reason, (host,) if host else (), float(wall[0]) if wall else None)

    def cancel(self, shell: Shell, ids: Sequence[str]) -> None:
        """Cancel jobs. Raises NoAnswer."""
        if ids:
            query(
                shell,
                ["qdel", *ids],
                accept=r"does not exist|already in deletion|registered the job|denied: job",
            )


def _job(item: ElementTree.Element) -> Job | None:
    name = item.findtext("JB_name") or ""
    if not JOB_NAME.match(name):
        return None
    id = item.findtext("JB_job_number")
    state = item.findtext("state")
    if not id or state is None:
        raise NoAnswer("qstat: a job has no number or no state")
    queue = item.findtext("queue_name") or ""
    host = queue.partition("@")[2]
    return Job(id, name, state_of(state), state, (host,) if host else ())


def state_of(letters: str) -> BlockState:
    """Convert GridEngine's state letters, which are case-sensitive."""
    if "E" in letters:
        return _S.HELD  # an error state: it stays until a user clears it or deletes the job
    if "h" in letters or any(letter in letters for letter in "sSTN"):
        return _S.HELD
    if "r" in letters or "t" in letters or "R" in letters:
        return _S.RUNNING
    if "w" in letters or "q" in letters:
        return _S.PENDING
    # being deleted: it counts until it has ended
    return _S.RUNNING if "d" in letters else _S.UNKNOWN
