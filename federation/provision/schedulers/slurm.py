"""Slurm. Uses text output with an explicit format: the JSON output changes between releases."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..connection.shell import Shell
from ..planning.model import BlockState
from .base import JOB_NAME, Job, JobSpec, hh_mm_ss, parse_duration, parsing, query, run_submit
from .template import script, valid_hosts

_RESERVED = (
    r"(-J|--job-name|-o|--output|-e\b|--error|-t\b|--time\b|-N|--nodes|-a\b|--array|-x\b|--exclude\b"
    r"|--wrap|--signal|--requeue|--no-requeue)"
)
_PARTS = re.compile(r"([A-Za-z0-9_.-]*)\[([0-9,-]+)\]|([A-Za-z0-9_.-]+)")
_S = BlockState
_STATES = {
    "PENDING": _S.PENDING, "CONFIGURING": _S.PENDING, "REQUEUED": _S.PENDING, "REQUEUE_FED": _S.PENDING,
    "REQUEUE_HOLD": _S.HELD, "RESV_DEL_HOLD": _S.HELD, "SPECIAL_EXIT": _S.HELD,
    "SUSPENDED": _S.HELD, "STOPPED": _S.HELD,
    "RUNNING": _S.RUNNING, "COMPLETING": _S.RUNNING, "RESIZING": _S.RUNNING, "SIGNALING": _S.RUNNING,
    "STAGE_OUT": _S.RUNNING,
    "COMPLETED": _S.COMPLETED, "FAILED": _S.FAILED, "BOOT_FAIL": _S.FAILED, "REVOKED": _S.FAILED,
    "LAUNCH_FAILED": _S.FAILED, "RECONFIG_FAIL": _S.FAILED, "TIMEOUT": _S.TIMEOUT, "DEADLINE": _S.TIMEOUT,
    "PREEMPTED": _S.PREEMPTED, "NODE_FAIL": _S.NODE_FAIL, "OUT_OF_MEMORY": _S.OUT_OF_MEMORY,
    "CANCELLED": _S.CANCELLED,
}  # fmt: skip
#: Reasons of pending jobs that will not start without intervention.
_HOLDS = ("JobHeldUser", "JobHeldAdmin", "launch failed requeued held", "launch_failed_requeued_held")
#: Environment variables that change the output of these commands.
_VARIABLES = ("SQUEUE_FORMAT", "SQUEUE_FORMAT2", "SQUEUE_STATES", "SQUEUE_PARTITION", "SQUEUE_SORT")
_PLAIN = ["env", *(word for name in (*_VARIABLES, "SQUEUE_NAMES", "SLURM_CLUSTERS") for word in ("-u", name))]


class Slurm:
    """Slurm 20.11 or later."""

    kind = "slurm"

    def script(self, spec: JobSpec) -> str:
        """Return the job's script. Raises BadRequest."""
        lines = [
            f"--job-name={spec.name}",
            f"--output={spec.out}",
            f"--error={spec.err}",
            f"--time={hh_mm_ss(spec.walltime)}",
            f"--nodes={spec.nodes}",
            "--ntasks-per-node=1",
            f"--cpus-per-task={spec.slots_per_node}",
            # a requeued job would be a block that the provisioner did not submit
            "--no-requeue",
            "--open-mode=append",
        ]
        avoided = valid_hosts(spec.exclude)
        if avoided:
            lines.append(f"--exclude={','.join(avoided)}")
        if spec.nodes > 1 and not spec.launcher:
            # --overlap: calls may start job steps (MPI with srun) while the worker's step runs
            spec = with_launcher(
                spec, ("srun", "--nodes={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=0", "--overlap")
            )
        return script(spec, "#SBATCH", lines, _RESERVED)

    def submit(self, shell: Shell, spec: JobSpec) -> str:
        """Submit a job; return its id. Raises Refused, LimitReached, OutcomeUnknown."""
        # on the command line too: SBATCH_REQUEUE in the environment overrides the script
        words = ["sbatch", "--parsable", "--no-requeue"]
        return run_submit(shell, words, r"^(\d+)(?:;\S+)?\s*$", input=self.script(spec))

    def jobs(self, shell: Shell, known: Sequence[str]) -> list[Job]:
        """Return the account's jobs that Umbel submitted. Raises NoAnswer."""
        # the reason is last because it may contain any character
        words = [*_PLAIN, "squeue", "--noheader", "--me", "--states=all", "--format=%i|%T|%M|%N|%j|%r"]
        out = query(shell, words)
        found = []
        with parsing("squeue", out):
            for line in filter(None, map(str.strip, out.splitlines())):
                id, state, ran, nodes, name, reason = line.split("|", 5)
                if JOB_NAME.match(name):
                    found.append(
                        Job(id, name, state_of(state, reason), reason, expand(nodes), parse_duration(ran))
                    )
        gone = sorted(set(known) - {job.id for job in found})
        return found + (self._ended(shell, gone) if gone else [])

    def _ended(self, shell: Shell, ids: Sequence[str]) -> list[Job]:
        """Return jobs that squeue no longer lists, if the site has accounting."""
        fields = "--format=JobIDRaw,State,NodeList,ElapsedRaw,JobName%60"
        words = ["sacct", "-X", "--noheader", "--parsable2", fields, f"--jobs={','.join(ids)}"]
        done = shell.run(words)
        if done.code != 0:
            return []  # no accounting: how they ended is unknown
        found = []
        with parsing("sacct", done.out):
            for line in filter(None, map(str.strip, done.out.splitlines())):
                id, state, nodes, ran, name = line.split("|", 4)
                if not re.fullmatch(r"\d{0,12}", ran):
                    raise ValueError(f"not a number of seconds: {ran!r}")
                if JOB_NAME.match(name):
                    found.append(Job(id, name, state_of(state, ""), state, expand(nodes), float(ran or 0)))
        return found

    def cancel(self, shell: Shell, ids: Sequence[str]) -> None:
        """Cancel jobs. Raises NoAnswer."""
        if ids:
            query(shell, ["scancel", *ids], accept=r"invalid job id|already completing|already completed")


def with_launcher(spec: JobSpec, launcher: tuple[str, ...]) -> JobSpec:
    """Return the same job with a launcher."""
    return JobSpec(**{**spec.__dict__, "launcher": launcher})


def state_of(word: str, reason: str) -> BlockState:
    """Convert Slurm's state (``CANCELLED by 1000``, ``COMPLETING``) and reason."""
    state = _STATES.get(word.split(" ")[0].rstrip("+").upper(), _S.UNKNOWN)
    return _S.HELD if state is _S.PENDING and reason.strip("()") in _HOLDS else state


def expand(nodes: str) -> tuple[str, ...]:
    """Return the names in a host list (``cn[1-3,7],gpu1``), at most 10,000."""
    names: list[str] = []
    for prefix, inside, plain in _PARTS.findall(nodes):
        if plain:
            names.append(plain)
            continue
        for part in inside.split(","):
            low, _, high = part.partition("-")
            for number in range(int(low), int(high or low) + 1):
                names.append(f"{prefix}{number:0{len(low)}d}")
                if len(names) >= 10_000:
                    return tuple(names)
    return tuple(names)
