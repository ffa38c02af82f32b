"""What every batch system must do, held against played ones that misbehave as the real ones do."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from federation.provision.connection.shell import LocalShell
from federation.provision.planning.model import BlockState
from federation.provision.schedulers.base import (
    Job,
    JobSpec,
    LimitReached,
    NoAnswer,
    OutcomeUnknown,
    Refused,
    Scheduler,
)
from federation.provision.schedulers.gridengine import GridEngine
from federation.provision.schedulers.gridengine import state_of as gridengine_state
from federation.provision.schedulers.htcondor import HTCondor
from federation.provision.schedulers.lsf import LSF
from federation.provision.schedulers.pbs import PBS
from federation.provision.schedulers.slurm import Slurm, expand
from federation.provision.schedulers.slurm import state_of as slurm_state
from tests.support import scripts
from tests.support.fake_scheduler import FakeCluster
from umbel.protocol.errors import BadRequest

SYSTEMS: list[Scheduler] = [Slurm(), GridEngine(), PBS(), LSF(), HTCondor()]
NAME = "umbel-0123abcd-00000001"


class Bench:
    """A batch system and the cluster that it is tried on."""

    def __init__(self, system: Scheduler, folder: Path):
        self.system = system
        self.cluster = FakeCluster(folder / "cluster", system.kind)
        self.shell = LocalShell(folder, self.cluster.environ)
        self.folder = str(folder / "blocks")

    def spec(self, number: int = 1, **more: object) -> JobSpec:
        return JobSpec(f"umbel-0123abcd-{number:08x}", ("worker",), self.folder, **more)  # type: ignore[arg-type]  # noqa: E501

    def submit(self, number: int = 1) -> str:
        return self.system.submit(self.shell, self.spec(number))

    def jobs(self, known: Sequence[str] = ()) -> dict[str, Job]:
        return {job.name: job for job in self.system.jobs(self.shell, known)}


@pytest.fixture(params=SYSTEMS, ids=lambda system: system.kind)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(request.param, tmp_path)


def test_a_job_is_submitted_found_by_name_and_cancelled(bench: Bench) -> None:
    assert bench.jobs() == {}
    id = bench.submit()
    assert bench.jobs()[NAME] == Job(id, NAME, BlockState.PENDING, *_rest(bench.jobs()[NAME]))
    bench.cluster.change(id, state="running", host="cn1")
    job = bench.jobs([id])[NAME]
    assert (job.state, job.hosts) == (BlockState.RUNNING, ("cn1",))
    bench.system.cancel(bench.shell, [id])
    assert bench.cluster.jobs[0]["state"] == "cancelled"
    assert bench.jobs([id])[NAME].state is BlockState.CANCELLED
    bench.system.cancel(bench.shell, [id])  # gone already: fine


def _rest(job: Job) -> tuple[object, ...]:
    return job.reason, job.hosts, job.ran


def test_ends_are_told_apart(bench: Bench) -> None:
    good, bad, held = bench.submit(1), bench.submit(2), bench.submit(3)
    bench.cluster.change(good, state="completed", host="cn1")
    bench.cluster.change(bad, state="failed", code=1, host="cn1", reason="exit code 1")
    bench.cluster.change(held, state="held", reason='policy violated: ask "the" admin | please')
    states = [job.state for _, job in sorted(bench.jobs([good, bad, held]).items())]
    assert states == [BlockState.COMPLETED, BlockState.FAILED, BlockState.HELD]


def test_other_jobs_of_the_account_are_left_alone(bench: Bench) -> None:
    for name in ("analysis", "umbel-mine", "a&b <c>", "STDIN"):
        bench.cluster.add(name=name)
    assert bench.jobs() == {}


def test_a_server_that_is_down_says_nothing_about_jobs(bench: Bench) -> None:
    id = bench.submit()
    bench.cluster.mode("down")
    with pytest.raises(NoAnswer):
        bench.jobs([id])
    with pytest.raises(OutcomeUnknown):
        bench.submit(2)
    with pytest.raises(NoAnswer):
        bench.system.cancel(bench.shell, [id])


def test_garbage_is_no_answer(bench: Bench) -> None:
    id = bench.submit()
    bench.cluster.mode("garbage")
    with pytest.raises(NoAnswer):
        bench.jobs([id])


def test_limits_refusals_and_lost_answers_are_told_apart(bench: Bench) -> None:
    bench.cluster.mode("limit")
    with pytest.raises(LimitReached):
        bench.submit(1)
    bench.cluster.mode("refuse")
    with pytest.raises(Refused) as refused:
        bench.submit(2)
    assert not isinstance(refused.value, LimitReached)
    assert bench.cluster.jobs == []
    bench.cluster.mode("lost answer")
    with pytest.raises(OutcomeUnknown):
        bench.submit(3)
    bench.cluster.mode("")
    assert list(bench.jobs()) == ["umbel-0123abcd-00000003"]


def test_an_id_that_was_purged_does_not_hide_the_others(bench: Bench) -> None:
    gone, here = bench.submit(1), bench.submit(2)
    bench.cluster.change(gone, state="completed", purged=True)
    assert bench.jobs([gone, here])["umbel-0123abcd-00000002"].state is BlockState.PENDING


@pytest.mark.parametrize("directive", ["a\nb", "$(true)\x07", "", "x" * 501])
def test_directives_are_one_printable_line(bench: Bench, directive: str) -> None:
    with pytest.raises(BadRequest):
        bench.system.submit(bench.shell, bench.spec(directives=(directive,)))


RESERVED = {
    "slurm": "--job-name=mine",
    "gridengine": "-N mine",
    "pbs": "-l walltime=99:00:00",
    "lsf": "-W 99:00",
    "htcondor": "executable = /bin/sh",
}


def test_owners_cannot_set_what_umbel_sets(bench: Bench) -> None:
    with pytest.raises(BadRequest) as refused:
        bench.system.script(bench.spec(directives=(RESERVED[bench.system.kind],)))
    assert RESERVED[bench.system.kind] in refused.value.message


@pytest.mark.parametrize("directive", ["--requeue", "--no-requeue"])
def test_slurm_starts_no_block_twice(bench: Bench, directive: str) -> None:
    """A job that Slurm starts again would be a block that the provisioner did not submit."""
    if bench.system.kind != "slurm":
        return
    assert "#SBATCH --no-requeue\n" in bench.system.script(bench.spec())
    with pytest.raises(BadRequest, match=directive):
        bench.system.script(bench.spec(directives=(directive,)))


def test_no_word_of_a_person_is_interpreted_by_a_shell(bench: Bench, tmp_path: Path) -> None:
    """The script is really run: whatever setup lines and words hold, they stay words."""
    evil = f"$(touch {tmp_path}/evil) `touch {tmp_path}/evil`; touch {tmp_path}/evil"
    show = scripts.write(tmp_path / "show", 'for word in "$@"; do echo "<$word>"; done')
    spec = JobSpec(NAME, (str(show), evil, "it's"), bench.folder, setup=(f"echo {evil}", "export A=1"))
    script = tmp_path / "script"
    script.write_text(bench.system.script(spec))
    done = subprocess.run(["sh", str(script)], capture_output=True, text=True, timeout=20, check=True)
    assert f"<{evil}>" in done.stdout and "<it's>" in done.stdout and f"<{NAME}>" in done.stdout
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("line", ["echo 'open", "", "a\nb"])
def test_setup_lines_are_simple_commands(bench: Bench, line: str) -> None:
    with pytest.raises(BadRequest):
        bench.system.script(bench.spec(setup=(line,)))


def test_bad_nodes_are_avoided(bench: Bench) -> None:
    if bench.system.kind == "pbs":
        return  # PBS cannot exclude a node by name
    bench.system.submit(bench.shell, bench.spec(exclude=("cn7", "evil name\n#SBATCH --uid=0")))
    text = bench.cluster.jobs[0]["text"]
    assert "cn7" in text and "evil" not in text


@pytest.mark.parametrize(
    ("word", "reason", "state"),
    [
        ("CANCELLED by 1000", "", BlockState.CANCELLED),
        ("RESIZING", "", BlockState.RUNNING),
        ("PREEMPTED", "", BlockState.PREEMPTED),
        ("PENDING", "JobHeldAdmin", BlockState.HELD),
        ("PENDING", "Priority", BlockState.PENDING),
        ("SOMETHING_NEW", "", BlockState.UNKNOWN),
    ],
)
def test_words_of_slurm(word: str, reason: str, state: BlockState) -> None:
    assert slurm_state(word, reason) is state


@pytest.mark.parametrize(
    ("letters", "state"),
    [("qw", "pending"), ("hqw", "held"), ("r", "running"), ("t", "running"), ("Rr", "running"), ("S", "held"),
     ("s", "held"), ("Eqw", "held"), ("dr", "running"), ("d", "running")],
)  # fmt: skip
def test_letters_of_gridengine(letters: str, state: str) -> None:
    assert gridengine_state(letters).value == state


def test_host_lists() -> None:
    assert expand("cn[01-03,7],gpu1") == ("cn01", "cn02", "cn03", "cn7", "gpu1")
    assert expand("") == ()


def test_slurm_without_accounting(tmp_path: Path) -> None:
    bench = Bench(Slurm(), tmp_path)
    id = bench.submit()
    bench.cluster.change(id, state="timeout", purged=True)
    assert bench.jobs([id])[NAME].state is BlockState.TIMEOUT
    (bench.cluster.folder / "no accounting").touch()
    assert bench.jobs([id]) == {}
