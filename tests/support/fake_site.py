"""A site in memory: an account, a batch system and a network, controlled by the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from federation.provision.connection.shell import TIMEOUT, CommandResult, Shell, Unreachable
from federation.provision.planning.model import BlockState
from federation.provision.records.sites import Site
from federation.provision.schedulers.base import Job, JobSpec
from federation.provision.site.network import Installation


class FakeShell:
    """Records the commands; every command succeeds. ``away``: it is unreachable."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.files: dict[str, bytes] = {}
        self.away = False

    def run(self, words: Sequence[str], *, input: str = "", timeout: float = TIMEOUT) -> CommandResult:
        """Run a command to its end."""
        self._answer()
        self.ran.append(list(words))
        return CommandResult(0, "", "")

    def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Write a file."""
        self._answer()
        self.files[path] = data

    def read(self, path: str, tail: int = 65536) -> bytes:
        """The end of a file."""
        self._answer()
        return self.files.get(path, b"")[-tail:]

    def _answer(self) -> None:
        if self.away:
            raise Unreachable("the login node does not answer")


class FakeScheduler:
    """A batch system: ``table`` holds its jobs by id; ``asked`` counts the questions."""

    kind = "fake"

    def __init__(self, shell: FakeShell) -> None:
        self.table: dict[str, Job] = {}
        self.specs: list[JobSpec] = []
        self.cancelled: list[str] = []
        self.asked = 0
        #: jobs end only when the test says so, although they were cancelled
        self.stubborn = False
        self._shell = shell

    def script(self, spec: JobSpec) -> str:
        """The job's script."""
        return " ".join(spec.command)

    def submit(self, shell: Shell, spec: JobSpec) -> str:
        """Take a job."""
        self._shell.run(["submit"])
        self.specs.append(spec)
        id = str(100 + len(self.specs))
        self.table[id] = Job(id, spec.name, BlockState.PENDING)
        return id

    def jobs(self, shell: Shell, known: Sequence[str]) -> list[Job]:
        """Tell of all jobs."""
        self.asked += 1
        self._shell.run(["jobs"])
        return list(self.table.values())

    def cancel(self, shell: Shell, ids: Sequence[str]) -> None:
        """End jobs."""
        self._shell.run(["cancel", *ids])
        self.cancelled += ids
        if not self.stubborn:
            for id in ids:
                self.set(id, BlockState.CANCELLED)

    def set(self, id: str, state: BlockState, **more: Any) -> None:
        """Let a job be in another state."""
        self.table[id] = replace(self.table[id], state=state, **more)


class FakeNetwork:
    """Routes to the broker: ``known``, and the relays that must run."""

    def __init__(self) -> None:
        self.known = ["direct=", "relay=10.0.0.1:7001"]
        self.kept: list[str] = []
        self.invalidated = 0

    def routes(self, installation: Installation, confirmed: str = "") -> list[str]:
        """Return the routes, the confirmed one first."""
        return sorted(self.known, key=lambda route: route != confirmed)

    def ensure_tunnel(self) -> None:
        """Open the tunnel."""

    def ensure_relay(self, confirmed: str) -> None:
        """Start the relay."""
        self.kept.append(confirmed)

    def stop_relay(self) -> None:
        """End the relay."""

    def invalidate(self) -> None:
        """Determine the routes again."""
        self.invalidated += 1

    def stop(self) -> None:
        """Forget them."""


class FakeMachine:
    """What ``federation.provision.site.machine.Machine`` is to the reconciler."""

    folder = "/home/me/.umbel"

    def __init__(self, site: Site) -> None:
        self.site = site
        self.shell = FakeShell()
        self.batch = FakeScheduler(self.shell)
        self.network = FakeNetwork()

    @property
    def blocks(self) -> str:
        """Where scripts and outputs lie."""
        return f"{self.folder}/blocks/{self.site.endpoint_name}"

    def scheduler(self) -> FakeScheduler:
        """The batch system."""
        return self.batch

    def shells(self) -> list[FakeShell]:
        """The one shell."""
        return [self.shell]

    def close(self) -> None:
        """Nothing is open."""
