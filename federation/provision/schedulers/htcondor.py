"""HTCondor. One node per block; jobs that have ended are asked for in its history."""

from __future__ import annotations

import re
from collections.abc import Sequence

from umbel.protocol.errors import BadRequest

from ..connection.shell import Shell
from ..planning.model import BlockState
from .base import JOB_NAME, Job, JobSpec, asked, parsing, submitted
from .template import body, checked, hosts

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
        """The job's script, with its description before it as comments. Raises BadRequest."""
        comments = "".join(f"# {line}\n" for line in self._description(spec).splitlines())
        return f"#!/bin/sh\n{comments}{body(spec)}"

    def _description(self, spec: JobSpec) -> str:
        if spec.nodes > 1:
            raise BadRequest("an HTCondor job has one node: set nodes_per_block to 1")
        lines = [
            f"executable = {spec.folder}/{spec.name}.sh",
            f"output = {spec.out}",
            f"error = {spec.err}",
            f"log = {spec.folder}/{spec.name}.log",
            f'+UmbelBlock = "{spec.name}"',
            f"request_cpus = {spec.slots_per_node}",
            # killed at its time limit, and never started a second time
            f"periodic_remove = (JobStatus == 2 && time() - EnteredCurrentStatus > {int(spec.walltime)})"
            " || NumJobStarts > 1",
            *(checked(directive, _RESERVED) for directive in spec.directives),
        ]
        avoided = " && ".join(f'(Machine != "{host}")' for host in hosts(spec.exclude))
        if avoided:
            lines.append(f"requirements = {avoided}")
        return "\n".join([*lines, "queue 1", ""])

    def submit(self, shell: Shell, spec: JobSpec) -> str:
        """Hand a job over; return its id. Raises Refused, LimitReached, InDoubt."""
        description = self._description(spec)
        shell.write(f"{spec.folder}/{spec.name}.sh", self.script(spec).encode(), 0o700)
        return submitted(
            shell, ["condor_submit", "-terse", "-"], r"^(\d+)\.\d+ - \d+\.\d+", input=description
        )

    def jobs(self, shell: Shell, known: Sequence[str]) -> list[Job]:
        """All jobs of the account with names of ours. Raises Unanswered."""
        ours = 'regexp("^umbel-", UmbelBlock)'
        out = asked(shell, ["condor_q", "-constraint", ours, "-af:t", *_FIELDS])
        found = _parsed("condor_q", out)
        gone = sorted(set(known) - {job.id for job in found})
        if gone:
            words = ["condor_history", "-constraint", ours, "-limit", str(10 * len(gone)), "-af:t", *_FIELDS]
            done = shell.run(words)
            if done.code == 0:
                found += [job for job in _parsed("condor_history", done.out) if job.id in gone]
        return found

    def cancel(self, shell: Shell, ids: Sequence[str]) -> None:
        """End jobs. Raises Unanswered."""
        if ids:
            asked(shell, ["condor_rm", *ids], fine=r"not found|couldn't find|already")


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
