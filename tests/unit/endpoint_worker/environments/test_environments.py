"""Building environments, keeping them, and what the site's rules say of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from endpoint_worker.config.environments import Environments
from endpoint_worker.config.policy import Rules
from endpoint_worker.environments import build, pip_settings
from endpoint_worker.environments.build import Builder, base_of, find_python
from endpoint_worker.environments.store import BuildError, Interrupted, Store
from endpoint_worker.intake.router import with_environment
from endpoint_worker.runners.process import RunnerOptions, setup_command
from endpoint_worker.sandbox import runtime_copy
from endpoint_worker.scheduling import runner_pool
from tests.support import scripts, wheels
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.bench import Bench, Running, make_bundle
from umbel.protocol.environment import Environment
from umbel.protocol.messages import Status

ENVIRON = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


def _fill(folder: Path, lock: int, size: int = 100_000) -> tuple[str, str]:
    folder.mkdir(parents=True)
    (folder / "python").write_bytes(b"x" * size)
    return str(folder / "python"), "/usr"


def test_many_workers_build_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path, lock: int) -> tuple[str, str]:
        made.append(folder)
        return _fill(folder, lock)

    def work() -> None:
        Store(tmp_path).build("d" * 64, make, lambda: False)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert made == [tmp_path / ("d" * 64)]
    built = Store(tmp_path).lease("d" * 64)
    assert built is not None and built.python == str(made[0] / "python") and built.size >= 100_000


def test_what_a_dead_worker_left_half_built_is_built_anew(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "half").write_text("made")
    store = Store(tmp_path)
    assert store.lease("d") is None
    store.build("d", _fill, lambda: False)
    assert store.lease("d") is not None and not (tmp_path / "d" / "half").exists()


def test_a_failure_is_remembered_for_a_while_by_all(tmp_path: Path) -> None:
    tried = []

    def fail(folder: Path, lock: int) -> tuple[str, str]:
        tried.append(folder)
        raise BuildError("no such package")

    for store in (Store(tmp_path), Store(tmp_path)):
        with pytest.raises(BuildError, match="no such package"):
            store.build("d", fail, lambda: False)
    assert len(tried) == 1 and not (tmp_path / "d").exists()
    impatient = Store(tmp_path, retry=0.0)
    impatient.build("d", _fill, lambda: False)
    assert Store(tmp_path).failure("d") is None


def test_a_failure_is_forgotten_when_the_site_is_mended(tmp_path: Path) -> None:
    def fail(folder: Path, lock: int) -> tuple[str, str]:
        raise BuildError("no such index")

    broken = Store(tmp_path, settings="broken")
    for _ in range(2):
        with pytest.raises(BuildError, match="no such index") as error:
            broken.build("d", fail, lambda: False)
    assert "restart" in str(error.value), "a remembered failure says how to try again"
    with pytest.raises(BuildError, match="no such index"):
        broken.build("d", _fill, lambda: False)
    Store(tmp_path, settings="mended").build("d", _fill, lambda: False)

    with pytest.raises(BuildError):
        broken.build("e", fail, lambda: False)
    Store(tmp_path, settings="broken").build("e", _fill, lambda: False)  # a worker that was started later


def test_a_builder_has_the_digest_of_its_settings() -> None:
    plain = Builder(Environments(), ENVIRON).digest
    assert plain == Builder(Environments(), dict(ENVIRON)).digest
    others = [
        Builder(Environments(options=("--index-url", "https://packages.example")), ENVIRON),
        Builder(Environments(sources=True), ENVIRON),
        Builder(Environments(), {**ENVIRON, "PIP_INDEX_URL": "https://packages.example"}),
    ]
    assert len({plain, *(other.digest for other in others)}) == 4


def test_uv_gets_the_settings_of_pip(tmp_path: Path) -> None:
    site, own = tmp_path / "site.conf", tmp_path / "own.conf"
    site.write_text("[global]\nindex-url = https://site.example/simple\nno-index = false\n")
    own.write_text(
        "[global]\nextra-index-url =\n    https://a.example\n    https://b.example\n"
        "[install]\nfind-links = /one /two\n"
    )
    assert pip_settings.for_uv({}, [site, own]) == {
        "UV_INDEX_URL": "https://site.example/simple",
        "UV_EXTRA_INDEX_URL": "https://a.example https://b.example",
        "UV_FIND_LINKS": "/one,/two",
    }
    variables = {"PIP_INDEX_URL": "https://other.example", "PIP_NO_INDEX": "1"}
    assert pip_settings.for_uv(variables, [site]) == {
        "UV_INDEX_URL": "https://other.example",
        "UV_NO_INDEX": "1",
    }
    site.write_text("no section")
    assert pip_settings.for_uv({}, [site, tmp_path / "missing"]) == {}
    assert pip_settings.files({"PIP_CONFIG_FILE": os.devnull}) == []


def test_the_least_lately_used_makes_room_but_nothing_that_is_in_use(tmp_path: Path) -> None:
    mine, other = Store(tmp_path, most=250_000), Store(tmp_path)
    for age, digest in enumerate("abc"):
        Store(tmp_path).build(digest, _fill, lambda: False)
        os.utime(tmp_path / f"{digest}.json", (age, age))
    assert other.lease("a") is not None
    os.utime(tmp_path / "a.json", (0, 0))
    mine.prune()
    assert [name for name in "abc" if (tmp_path / name).exists()] == ["a", "c"]
    other.release("a")
    os.utime(tmp_path / "a.json", (0, 0))
    mine.build("d", _fill, lambda: False)
    assert [name for name in "abcd" if (tmp_path / name).exists()] == ["c", "d"]


@pytest.mark.parametrize("with_uv", [True, False])
def test_a_build_installs_and_a_failure_shows_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_uv: bool
) -> None:
    if with_uv and build.find_uv() is None:
        pytest.skip("uv is not installed")
    if not with_uv:
        monkeypatch.setattr(build, "find_uv", lambda: None)
    wheels.make(tmp_path / "wheels", "umbeltoy", "1.0")
    options = ["--no-index", "--find-links", str(tmp_path / "wheels")]
    builder = Builder(Environments(options=options), ENVIRON)
    python, base = builder.make(Environment(["umbeltoy"]), tmp_path / "env")
    said = subprocess.run(
        [python, "-c", "import umbeltoy, sys; print(umbeltoy.__version__, sys.base_prefix)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert said[0] == "1.0" and Path(base).samefile(said[1])
    with pytest.raises(BuildError, match="umbelnothing"):
        builder.make(Environment(["umbelnothing"]), tmp_path / "other")


def test_builds_never_run_code_of_packages_unless_the_site_says_so(tmp_path: Path) -> None:
    source = tmp_path / "wheels" / "umbelsource-1.0"
    source.mkdir(parents=True)
    proof = tmp_path / "proof"
    (source / "setup.py").write_text(f"open({str(proof)!r}, 'w'); import setuptools; setuptools.setup()\n")
    shutil.make_archive(str(source), "gztar", source.parent, source.name)
    shutil.rmtree(source)
    options = ["--no-index", "--find-links", str(tmp_path / "wheels")]
    builder = Builder(Environments(options=options), ENVIRON)
    with pytest.raises(BuildError):
        builder.make(Environment(["umbelsource"]), tmp_path / "env")
    with pytest.raises(BuildError, match="sources = true"):
        builder.make(Environment([f"umbelsource @ file://{source}.tar.gz"]), tmp_path / "env2")
    assert not proof.exists()


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"3\.8"):
        Builder(Environments(), ENVIRON).make(Environment(python="3.8"), tmp_path / "env")
    with pytest.raises(BuildError, match=r"3\.99"):
        find_python("3.99", lambda name: None)
    assert find_python(None) == find_python(f"3.{sys.version_info[1]}") == sys.executable
    with pytest.raises(BuildError, match=r"3\.99"):
        Builder(Environments(), ENVIRON).make(Environment(python="3.99"), tmp_path / "env")


@pytest.fixture
def slow_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = scripts.write(tmp_path / "uv", "exec sleep 60")
    monkeypatch.setattr(build, "find_uv", lambda: str(slow))


def test_a_program_that_outlives_its_worker_keeps_others_out_of_the_folder(tmp_path: Path) -> None:
    left: list[subprocess.Popen[bytes]] = []

    def leave(folder: Path, lock: int) -> tuple[str, str]:
        left.append(subprocess.Popen(["sleep", "600"], pass_fds=[lock]))
        raise Interrupted

    with pytest.raises(Interrupted):
        Store(tmp_path).build("d", leave, lambda: False)
    with pytest.raises(BuildError, match=r"d\.lock"):
        Store(tmp_path, patience=0.1).build("d", _fill, lambda: False)
    left[0].kill()
    left[0].wait(10)
    Store(tmp_path).build("d", _fill, lambda: False)
    assert Store(tmp_path).lease("d") is not None


def test_programs_that_build_have_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    uv = scripts.write(tmp_path / "uv", f"readlink /proc/$$/fd/* >> {seen}\nexit 0")
    monkeypatch.setattr(build, "find_uv", lambda: str(uv))
    make = partial(Builder(Environments(), ENVIRON).make, Environment(["x"]))
    Store(tmp_path / "kept").build("d", make, lambda: False)
    assert seen.read_text().count(str(tmp_path / "kept" / "d.lock")) == 2


@pytest.mark.usefixtures("slow_uv")
def test_a_build_that_takes_too_long_or_whose_worker_stops_is_ended(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"0\.2 s"):
        Builder(Environments(build_seconds=0.2), ENVIRON).make(Environment(["x"]), tmp_path / "env")
    builder = Builder(Environments(), ENVIRON)
    with _building(builder, tmp_path) as ended:
        builder.stop()
    assert isinstance(ended.pop(), Interrupted) and Store(tmp_path).failure("d") is None


@pytest.mark.usefixtures("slow_uv")
def test_a_build_that_something_else_killed_failed_unless_its_worker_stops_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store = Store(tmp_path)
    builder = Builder(Environments(), ENVIRON)
    with _building(builder, tmp_path) as ended:
        next(iter(builder._running)).terminate()
        builder.stop()
    assert isinstance(ended.pop(), Interrupted) and store.failure("d") is None
    monkeypatch.setattr(build, "STOP_SECONDS", 0.1)
    builder = Builder(Environments(), ENVIRON)
    with _building(builder, tmp_path) as ended:
        next(iter(builder._running)).kill()
    assert "killed by signal 9" in str(ended.pop())
    assert "killed by signal 9" in str(store.failure("d"))


@contextmanager
def _building(builder: Builder, folder: Path) -> Iterator[list[BuildError]]:
    """A build that lasts until the block's end; the list has how it ended then."""
    ended: list[BuildError] = []

    def work() -> None:
        with pytest.raises(BuildError) as caught:
            Store(folder).build("d", partial(builder.make, Environment(["x"])), lambda: False)
        ended.append(caught.value)

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: builder._running, what="the build's start")
    yield ended
    thread.join(10)
    assert len(ended) == 1


@pytest.mark.parametrize(
    ("rules", "environment", "said"),
    [
        ({}, Environment(["numpy"]), None),
        ({"environments": "none"}, Environment(["numpy"]), "rule environments"),
        ({"environments": "none"}, Environment(name="ready"), "rule environments"),
        ({"environments": "named"}, Environment(["numpy"]), "rule environments"),
        ({"environments": "named"}, Environment(name="ready"), None),
        ({"allowed_requirements": ["NumPy", "scikit-*"]}, Environment(["numpy>1", "Scikit_Learn"]), None),
        ({"allowed_requirements": ["numpy"]}, Environment(["numpy", "evil"]), "'evil'"),
        ({"allowed_requirements": ["numpy"]}, Environment(["numpy @ https://evil.example/n.whl"]), "numpy @"),
        ({"allowed_requirements": []}, Environment(python="3.11"), None),
    ],
)
def test_the_sites_rules(rules: dict[str, object], environment: Environment, said: str | None) -> None:
    refusal = Rules(**rules).against_environment(environment)  # type: ignore[arg-type]
    assert refusal is None if said is None else said in str(refusal)


def test_an_environment_whose_python_does_not_start_ends_its_calls_and_no_others(tmp_path: Path) -> None:
    with Bench(tmp_path) as bench:
        python = scripts.write(tmp_path / "python", "echo 'no libpython here' >&2\nexit 127")
        base = RunnerOptions(tmp_path / "work", ENVIRON, key=("broken", ""))
        running = Running(bench, *make_bundle(pow, [(2, 3), (2, 4)]))
        heard: list[str] = []
        running.job.options = with_environment(str(python), [], tmp_path, base)
        running.job.on_broken = heard.append
        bench.supervisor.submit(running.job)
        outcomes = running.wait()
        assert {outcome.code for outcome in outcomes} == {"ENVIRONMENT_ERROR"}
        assert "no libpython here" in str(outcomes[0].message) and len(heard) == 1
        assert bench.value(pow, 2, 5) == 32 and bench.supervisor.problem == ""


def test_an_environment_whose_python_takes_for_ever_ends_its_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bench(tmp_path) as bench:
        assert bench.value(pow, 2, 5) == 32
        monkeypatch.setattr(runner_pool, "START_TIMEOUT", 0.3)
        python = scripts.write(tmp_path / "python", "exec sleep 60")
        base = RunnerOptions(tmp_path / "work", ENVIRON, key=("slow", ""))
        running = Running(bench, *make_bundle(pow, [(2, 3)]))
        running.job.options = with_environment(str(python), [], tmp_path, base)
        bench.supervisor.submit(running.job)
        assert [outcome.code for outcome in running.wait()] == ["ENVIRONMENT_ERROR"]


def test_a_runner_that_is_killed_while_it_starts_does_not_spoil_its_environment(tmp_path: Path) -> None:
    with Bench(tmp_path) as bench:
        first = tmp_path / "first"
        kill = f"[ -e {first} ] || {{ touch {first}; kill -KILL $$; }}"
        python = scripts.write(tmp_path / "python", f'{kill}\nexec {sys.executable} "$@"')
        base = RunnerOptions(tmp_path / "work", ENVIRON, key=("spoilt", ""))
        running = Running(bench, *make_bundle(pow, [(2, 3), (2, 4)]))
        heard: list[str] = []
        running.job.options = with_environment(str(python), [], runtime_copy.make(tmp_path / "cache"), base)
        running.job.on_broken = heard.append
        bench.supervisor.submit(running.job)
        assert [(o.status, o.message) for o in running.wait()] == 2 * [(Status.SUCCEEDED, None)]
        assert first.exists() and not heard


def test_setup_lines_run_before_the_command_and_a_bad_one_ends_it(tmp_path: Path) -> None:
    def run(*lines: str) -> subprocess.CompletedProcess[str]:
        command = [
            *setup_command(lines),
            sys.executable,
            "-c",
            "import os; print(os.environ.get('A'), os.getppid())",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    assert run("export A='x y'").stdout.split() == ["x", "y", str(os.getpid())]
    bad = run("module load no-such-module", "export A=1")
    assert bad.returncode != 0 and bad.stdout == ""
    assert setup_command(()) == []


def test_base_of_what_is_no_virtual_environment(tmp_path: Path) -> None:
    assert base_of(tmp_path) is None
