"""HTCondor. One node per block; ended jobs are looked up in its history."""

from __future__ import annotations

import re
from collections.abc import Sequence

from umbel.protocol.errors import BadRequest

from ..connection.shell import Shell
from ..planning.model import BlockState
from .base import JOB_NAME, Job, JobSpec, parsing, query, run_submit
from .template import body, checked_directive, valid_hosts

_RESERVED = (
    r"(?i)(executable|output|error|log|queue|arguments|\+?My\.UmbelBlock|\+UmbelBlock|periodic_remove)\b"
)
_S = BlockState
_STATES = {
    "1": _S.PENDING, "2": _S.RUNNING, "3": _S.CANCELLED, "4": _S.COMPLETED, "5": _S.HELD, "6": _S.RUNNING,
    "7": _S.HELD,
}  # fmt: skip
_FIELDS = ["ClusterId", "JobStatus", "UmbelBlock", "ExitCode", "ExitBySignal", "RemoteHost", "HoldReason"]


class HTCondor:
    """HTCondor 9 or later."""

    kind = "htcondor"

    def script(self, spec: JobSpec) -> str:
        """Return the job's script, preceded by its description as comments. Raises BadRequest."""
        comments = "".join(f"# {line}\n" for line in self._description(spec).splitlines())
        return f"#!/bin/sh\n{comments}{body(spec)}"

    def _description(self, spec: JobSpec) -> str:
        if spec.nodes > 1:
            raise BadRequest("policy: HTCondor supports blocks of one node only: set nodes_per_block to 1")
        lines = [
            f"executable = {spec.folder}/{spec.name}.sh",
            f"output = {spec.out}",
            f"error = {spec.err}",
            f"log = {spec.folder}/{spec.name}.log",
            f'+UmbelBlock = "{spec.name}"',
            f"request_cpus = {spec.slots_per_node}",
            # removed at its time limit, and never started a second time
            f"periodic_remove = (JobStatus == 2 && time() - EnteredCurrentStatus > {int(spec.walltime)})"
            " || NumJobStarts > 1",
            *(checked_directive(directive, _RESERVED) for directive in spec.directives),
        ]
        avoided = " && ".join(f'(Machine != "{host}")' for host in valid_hosts(spec.exclude))
        if avoided:
            lines.append(f"requirements = {avoided}")
        return "\n".join([*lines, "queue 1", ""])

    def submit(self, shell: Shell, spec: JobSpec) -> str:
        """Submit a job; return its id. Raises Refused, LimitReached, OutcomeUnknown."""
        description = self._description(spec)
        shell.write(f"{spec.folder}/{spec.name}.sh", self.script(spec).encode(), 0o700)
        return run_submit(
            shell, ["condor_submit", "-terse", "-"], r"^(\d+)\.\d+ - \d+\.\d+", input=description
        )

    def jobs(self, shell: Shell, known: Sequence[str]) -> list[Job]:
        """Return the account's jobs that Umbel submitted. Raises NoAnswer."""
        ours = 'regexp("^umbel-", UmbelBlock)'
        out = query(shell, ["condor_q", "-constraint", ours, "-af:t", *_FIELDS])
        found = _parsed("condor_q", out)
        gone = sorted(set(known) - {job.id for job in found})
        if gone:
            words = ["condor_history", "-constraint", ours, "-limit", str(10 * len(gone)), "-af:t", *_FIELDS]
            done = shell.run(words)
            if done.code == 0:
                found += [job for job in _parsed("condor_history", done.out) if job.id in gone]
        return found

    def cancel(self, shell: Shell, ids: Sequence[str]) -> None:
        """Cancel jobs. Raises NoAnswer."""
        if ids:
            query(shell, ["condor_rm", *ids], accept=r"not found|couldn't find|already")


def _parsed(command: str, out: str) -> list[Job]:
    found = []
    with parsing(command, out):
        for line in filter(None, out.splitlines()):
            id, status, name, code, by_signal, host, reason = line.split("\t", 6)
            if not JOB_NAME.match(name):
                continue
            state = _STATES.get(status, _S.UNKNOWN)
            if state is _S.COMPLETED and (by_signal == "true" or re.match(r"[1-9]", code)):
                state = _S.FAILED
            machine = host.rpartition("@")[2]
            where = (machine,) if machine and machine != "undefined" else ()
            found.append(Job(id, name, state, "" if reason == "undefined" else reason, where))
    return found
