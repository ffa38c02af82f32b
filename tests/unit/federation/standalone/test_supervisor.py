"""Children are kept running and stopped in order; none of their processes outlives the supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from federation.standalone import processes
from federation.standalone import supervisor as supervise
from federation.standalone.supervisor import Spec, Supervisor
from tests.support import scripts
from tests.support.wait import wait_until

ROOT = Path(__file__).resolve().parents[4]
SLEEPER = "import time; time.sleep(60)"


def _spec(tmp_path: Path, name: str, code: str, **more: object) -> Spec:
    argv = [sys.executable, "-c", textwrap.dedent(code)]
    return Spec(name, argv, tmp_path, **more)  # type: ignore[arg-type]


def _step_until(supervisor: Supervisor, condition: Callable[[], object], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the supervisor did not get there in time"
        supervisor.step(0.05)


def test_a_dead_child_is_replaced_at_once(tmp_path: Path) -> None:
    changes: list[list[int]] = []
    note = lambda: changes.append([child.exits for child in supervisor.children.values()])  # noqa: E731
    with Supervisor(tmp_path, note) as supervisor:
        child = supervisor.add(_spec(tmp_path, "worker", SLEEPER))
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        began = time.monotonic()
        _step_until(supervisor, lambda: child.pid not in (first, None))
        assert time.monotonic() - began < 0.5
        assert (child.exits, child.status) == (1, -signal.SIGKILL)
        assert changes == [[0], [1], [1]]  # started, exited, restarted
        supervisor.stop()
        assert changes == [[0], [1], [1], []] and supervisor.stopping
    assert not psutil.pid_exists(first)


def test_the_delay_grows_while_a_child_keeps_dying(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        child = supervisor.add(_spec(tmp_path, "broken", "raise SystemExit(3)"))
        _step_until(supervisor, lambda: child.exits == 3)
        assert child.delay == pytest.approx(supervise.FIRST_DELAY * 8)


def test_the_delay_is_short_again_after_a_recovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "RECOVERED_AFTER", 0.0)
    with Supervisor(tmp_path) as supervisor:
        child = supervisor.add(_spec(tmp_path, "fickle", "raise SystemExit(3)"))
        _step_until(supervisor, lambda: child.exits == 3)
        assert child.delay == pytest.approx(supervise.FIRST_DELAY * 2)


def test_the_longest_delay_is_bounded(tmp_path: Path) -> None:
    child = supervise.Child(_spec(tmp_path, "broken", ""), tmp_path / "log", started=time.monotonic())
    for _ in range(20):
        before = time.monotonic()
        child.record_exit(1)
        assert child.due is not None
    assert child.delay == supervise.MAX_DELAY and child.due - before >= supervise.MAX_DELAY


def test_the_supervisor_sleeps_until_something_happens(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        child = supervisor.add(_spec(tmp_path, "worker", SLEEPER))
        began = time.monotonic()
        supervisor.step(0.2)
        assert time.monotonic() - began >= 0.2
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        began = time.monotonic()
        supervisor.step(30.0)  # it wakes up at the end of the child, and
        assert child.pid is None and child.due is not None
        supervisor.step(30.0)  # again when the restart is due
        assert child.pid is not None
        assert supervise.FIRST_DELAY <= time.monotonic() - began < 10.0


def test_a_second_signal_ends_the_wait_for_the_children(tmp_path: Path) -> None:
    code = """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open("ready", "w").close()
        time.sleep(60)
    """
    with Supervisor(tmp_path) as supervisor:
        child = supervisor.add(_spec(tmp_path, "deaf", code, grace=60.0))
        wait_until((tmp_path / "ready").exists, what="the child")
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        began = time.monotonic()
    assert time.monotonic() - began < 10.0
    assert child.process is not None and child.process.returncode == -signal.SIGKILL


def test_stopping_waits_no_longer_than_the_children_need(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        children = [supervisor.add(_spec(tmp_path, name, SLEEPER, grace=60.0)) for name in ("a", "b")]
        began = time.monotonic()
    assert time.monotonic() - began < 10.0
    assert all(child.process is not None and child.process.returncode is not None for child in children)


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before, wakeup = os.listdir("/proc/self/fd"), signal.set_wakeup_fd(-1)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCHLD)]
    with Supervisor(tmp_path) as supervisor:
        during = len(os.listdir("/proc/self/fd"))
        child = supervisor.add(_spec(tmp_path, "broken", "raise SystemExit(3)"))
        _step_until(supervisor, lambda: child.exits == 2)
        assert len(os.listdir("/proc/self/fd")) == during
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert signal.set_wakeup_fd(wakeup) == -1
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCHLD)] == handlers


def test_output_goes_to_a_private_log(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.add(_spec(tmp_path, "talker", "print('hello', flush=True); import time; time.sleep(60)"))
        log = tmp_path / "talker.log"
        wait_until(lambda: log.exists() and log.read_text() == "hello\n", what="the child's output")
        assert log.stat().st_mode & 0o777 == 0o600


def test_children_stop_in_the_order_of_their_ranks(tmp_path: Path) -> None:
    code = """
        import signal, sys, time
        def leave(*_):
            time.sleep(0.2)
            open("order", "a").write(sys.argv[0] + NAME + " ")
            sys.exit(0)
        signal.signal(signal.SIGTERM, leave)
        open("ready-" + NAME, "w").close()
        time.sleep(60)
    """
    with Supervisor(tmp_path) as supervisor:
        for rank, name in ((2, "broker"), (0, "endpoint"), (1, "web")):
            supervisor.add(
                _spec(tmp_path, name, f"NAME = '{name}'\n" + textwrap.dedent(code), rank=rank, grace=5.0)
            )
        wait_until(lambda: len(list(tmp_path.glob("ready-*"))) == 3, what="three children")
    assert (tmp_path / "order").read_text().replace("-c", "").split() == ["endpoint", "web", "broker"]


def test_a_child_that_ignores_the_request_is_killed_with_its_descendants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    running = Supervisor._running
    monkeypatch.setattr(Supervisor, "_running", lambda _, alive: (looks.append(1), running(alive))[1])
    code = """
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "60"], start_new_session=True)
        open("grandchild.new", "w").write(str(child.pid))
        import os; os.rename("grandchild.new", "grandchild")
        time.sleep(60)
    """
    with Supervisor(tmp_path) as supervisor:
        child = supervisor.add(_spec(tmp_path, "deaf", code, grace=0.3))
        wait_until(lambda: (tmp_path / "grandchild").exists(), what="the grandchild")
        family = [psutil.Process(child.pid), psutil.Process(int((tmp_path / "grandchild").read_text()))]
        began = time.monotonic()
    assert time.monotonic() - began < 3.0 and len(looks) < 20, "it sleeps meanwhile"
    assert all(processes.ended(process) for process in family)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_asks_to_stop_and_wakes_the_sleeper(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Supervisor(tmp_path) as supervisor:
        subprocess.run(["kill", f"-{number.name[3:]}", str(os.getpid())], check=True)
        supervisor.step(30.0)
        assert supervisor.stopping and not supervisor.kill_now
        signal.raise_signal(number)
        assert supervisor.kill_now
    assert signal.getsignal(number) is before


def test_nothing_is_restarted_while_stopping(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        child = supervisor.add(_spec(tmp_path, "worker", SLEEPER))
        supervisor.stopping = True
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        _step_until(supervisor, lambda: child.exits == 1)
        supervisor.step(2 * supervise.FIRST_DELAY)
        assert child.pid is None


def test_a_program_that_is_not_there_is_an_error_at_first(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor, pytest.raises(FileNotFoundError):
        supervisor.add(Spec("nothing", ["/no/such/program"], tmp_path))


def test_a_program_that_vanishes_is_tried_again_later(tmp_path: Path) -> None:
    program = scripts.write(tmp_path / "program", "exec sleep 60")
    with Supervisor(tmp_path) as supervisor:
        child = supervisor.add(Spec("program", [str(program)], tmp_path))
        program.rename(tmp_path / "elsewhere")
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        _step_until(supervisor, lambda: child.delay > supervise.FIRST_DELAY * 3)
        assert child.pid is None
        before, delay = time.monotonic(), child.delay
        supervisor._restart(child)
        assert child.due is not None and child.due >= before + delay and child.delay == 2 * delay
        (tmp_path / "elsewhere").rename(program)
        _step_until(supervisor, lambda: child.pid is not None)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    code = f"""
        import sys
        from pathlib import Path
        from federation.standalone.supervisor import Spec, Supervisor
        here = Path({str(tmp_path)!r})
        with Supervisor(here) as supervisor:
            child = supervisor.add(Spec("worker", [sys.executable, "-c", {SLEEPER!r}], here))
            (here / "pid.new").write_text(str(child.pid))
            (here / "pid.new").rename(here / "pid")
            while True:
                supervisor.step(10)
    """
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"}
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=environ)
    try:
        pid_file = tmp_path / "pid"
        wait_until(pid_file.exists, what="the child's pid")
        child = psutil.Process(int(pid_file.read_text()))
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: processes.ended(child), what="the child's end")


@pytest.mark.parametrize(
    ("status", "text"), [(3, "exit code 3"), (-9, "killed by SIGKILL"), (-200, "killed by signal 200")]
)
def test_ends_are_described(status: int, text: str) -> None:
    assert processes.describe(status) == text
