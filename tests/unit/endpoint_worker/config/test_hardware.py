"""What a slot has of its node, and calls that occupy several slots."""

from __future__ import annotations

import os
import random
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from endpoint_worker.config import hardware, settings
from endpoint_worker.config.hardware import (
    ACCELERATOR_VARIABLES,
    CORES_VARIABLE,
    THREAD_VARIABLES,
    Hardware,
    Layout,
)
from endpoint_worker.config.settings import SettingsError
from endpoint_worker.node import inventory
from endpoint_worker.scheduling import placement
from endpoint_worker.scheduling.supervisor import Supervisor
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.bench import Bench, statuses
from umbel.protocol.messages import Status
from umbel.serialize import load_result

GIB = 2**30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight processors, 20 GiB."""
    monkeypatch.setattr(hardware, "processors", lambda: list(range(8)))
    monkeypatch.setattr(hardware, "memory", lambda: 20 * GIB)


@pytest.mark.parametrize(
    ("table", "slots"),
    [
        ({}, 8),
        ({"cores_per_slot": 2}, 4),
        ({"cores_per_slot": 3}, 2),
        ({"cores_per_slot": 99}, 1),
        ({"memory_per_slot": 4 * GIB}, 5),
        ({"memory_per_slot": 4 * GIB, "cores_per_slot": 4}, 2),
        ({"accelerators": ("0", "1")}, 2),
        ({"accelerators": ("0", "1", "2"), "memory_per_slot": 12 * GIB}, 1),
    ],
)
def test_there_are_as_many_slots_as_the_scarcest_thing_allows(
    machine: None, table: dict[str, Any], slots: int
) -> None:
    assert Hardware(**table).count(0) == slots
    assert Hardware(**table).count(7) == 7, "unless the site says how many"


def test_slots_have_processors_of_their_own(machine: None) -> None:
    assert Hardware().layout(4).processors == ()
    assert Hardware(affinity=True).layout(4).processors == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert Hardware(affinity=True, cores_per_slot=3).layout(3).processors == ((0, 1, 2), (3, 4, 5), (0, 6, 7))
    layout = Hardware(affinity=True).layout(2)
    assert layout.affinity([0, 1]) == set(range(8))
    assert layout.affinity([2]) == {0, 1, 2, 3}, "a slot that was added later shares"


def test_accelerators_are_pinned_for_every_maker() -> None:
    layout = Layout(accelerators=("2", "GPU-8932f937", "2"))
    one, two = layout.environment([1]), layout.environment([0, 1, 2])
    assert {one[name] for name in ACCELERATOR_VARIABLES} == {"GPU-8932f937"}
    assert {two[name] for name in ACCELERATOR_VARIABLES} == {"2,GPU-8932f937"}
    assert (one[CORES_VARIABLE], two[CORES_VARIABLE]) == ("1", "3")
    assert not set(ACCELERATOR_VARIABLES) & set(Layout().environment([0]))


def test_only_wide_calls_are_told_how_many_threads_to_start() -> None:
    assert not set(THREAD_VARIABLES) & set(Layout(each=2).environment([0]))
    assert {Layout(each=2).environment([0, 1])[name] for name in THREAD_VARIABLES} == {"4"}
    assert Layout(((0,), (1,), (1,)), each=1).environment([0, 1, 2])["OMP_NUM_THREADS"] == "2"


def _load(folder: Path, text: str, **flags: Any) -> settings.Settings:
    file = folder / "endpoint.toml"
    file.write_text(text)
    return settings.load(file, "lab", **flags)


def test_the_table_is_read_and_checked(tmp_path: Path, machine: None) -> None:
    text = '[hardware]\naccelerators = 2\nmemory_per_slot = "3GiB"\naffinity = true\ncores_per_slot = 2'
    chosen = _load(tmp_path, text)
    assert chosen.hardware == Hardware(2, 3 * GIB, ("0", "1"), True)
    assert chosen.worker_slots == 2
    assert _load(tmp_path, '[hardware]\naccelerators = ["a", "a", "b"]').worker_slots == 3
    with pytest.raises(SettingsError, match="slots = 3, .*'accelerators'.* 2"):
        _load(tmp_path, text, slots=3)
    with pytest.raises(SettingsError, match=r"\[hardware\]: setting 'affinity' .* got 1 "):
        _load(tmp_path, "[hardware]\naffinity = 1")
    for wrong in ("[0]", "0", "-1", "1025", "true", "2.0", "'2'", "{}"):
        with pytest.raises(SettingsError, match=r"'accelerators' .* a list of strings or a positive integer"):
            _load(tmp_path, f"[hardware]\naccelerators = {wrong}")
    with pytest.raises(SettingsError, match="did you mean 'cores_per_slot'"):
        _load(tmp_path, "[hardware]\ncore_per_slot = 1")


def test_a_node_knows_its_machine_and_its_software() -> None:
    said = inventory.of_node()
    assert said["cpus"] == len(os.sched_getaffinity(0)) and said["memory"] > 2**28 and said["cpu"]
    assert isinstance(said["gpus"], list)
    versions = inventory.packages()
    for name in ("celery", "click", "psutil"):
        assert versions[name] == metadata.version(name)


def test_accelerators_are_found_in_what_drivers_say_of_them(tmp_path: Path) -> None:
    nvidia, cards = tmp_path / "nvidia", tmp_path / "drm"
    assert inventory.gpus(nvidia, cards) == []
    for card, maker, memory in (
        ("card0", "0x8086", False),
        ("card1", "0x1002", True),
        ("card2", "0x1002", False),
    ):
        device = cards / card / "device"
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{maker}\n")
        if memory:
            (device / "mem_info_vram_total").write_text("1")
    (cards / "card1-DP-1").mkdir()
    assert inventory.gpus(nvidia, cards) == ["AMD"]
    (nvidia / "0000:01:00.0").mkdir(parents=True)
    (nvidia / "0000:01:00.0" / "information").write_text("Model: \t NVIDIA A100-SXM4-40GB\nIRQ: 42\n")
    assert inventory.gpus(nvidia, cards) == ["NVIDIA A100-SXM4-40GB"]


@pytest.fixture(autouse=True)
def _slow_machines_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner may take long to start here."""
    monkeypatch.setattr(placement, "WAIT_FOR_RUNNER", 60.0)


def look() -> tuple[str, list[int], str | None]:
    cores = os.environ["UMBEL_CORES"]
    return cores, sorted(os.sched_getaffinity(0)), os.environ.get("CUDA_VISIBLE_DEVICES")


def test_a_runner_has_what_its_slots_have(tmp_path: Path) -> None:
    here = sorted(os.sched_getaffinity(0))
    layout = Layout([here[:1], here[-1:]], ("0", "1"))
    with Bench(tmp_path, slots=2, layout=layout) as bench:
        (wide,) = bench.run(look, cores=2)
        assert load_result(wide.payload) == ("2", sorted({here[0], here[-1]}), "0,1")
        cores, affinity, accelerator = bench.value(look)
        assert (cores, affinity) == ("1", [here[int(accelerator)]])
    assert sorted(os.sched_getaffinity(0)) == here


def note(folder: str, seconds: float) -> None:
    """Leave a file that says from when to when this call ran, and on how many slots."""
    began = time.monotonic()
    time.sleep(seconds)
    line = f"{os.environ['UMBEL_CORES']} {began} {time.monotonic()}"
    Path(folder, str(time.monotonic_ns())).write_text(line)


def _most_at_once(folder: Path) -> int:
    """How many slots were in use at once at most."""
    events = []
    for file in folder.iterdir():
        cores, began, ended = file.read_text().split()
        events += [(float(began), int(cores)), (float(ended), -int(cores))]
    most = used = 0
    for _, change in sorted(events):
        used += change
        most = max(most, used)
    return most


@pytest.mark.parametrize("seed", range(2))
def test_slots_are_never_used_twice_whatever_comes(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of any width in any order: all of them run, and never on more slots than there are."""
    monkeypatch.setattr(placement, "WAIT_FOR_SLOT", 60.0)
    dice = random.Random(seed)
    notes = tmp_path / "notes"
    notes.mkdir()
    with Bench(tmp_path, slots=4) as bench:
        running = [
            bench.start(
                note, [(str(notes), dice.choice([0.0, 0.02, 0.05]))], cores=dice.choice([1, 1, 2, 3, 4])
            )
            for _ in range(24)
        ]
        assert {statuses(bundle.wait(90))[0] for bundle in running} == {"succeeded"}
        assert len(list(notes.iterdir())) == 24 and _most_at_once(notes) <= 4
        wait_until(lambda: bench.supervisor.busy == 0, what="nothing runs")
        # nothing is kept for what has gone: four narrow calls find four slots
        gate = tmp_path / "open"
        last = [bench.start(until, [(str(gate),)]) for _ in range(4)]
        wait_until(lambda: bench.supervisor.busy == 4, what="four calls at once")
        gate.touch()
        assert [statuses(bundle.wait()) for bundle in last] == [["succeeded"]] * 4


def until(gate: str) -> None:
    while not os.path.exists(gate):
        time.sleep(0.01)


def test_a_wide_call_occupies_its_slots_and_those_behind_it_do_not_overtake(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with Bench(tmp_path, slots=3) as bench:
        bench.until_idle()
        long = [bench.start(until, [(str(first),)]) for _ in range(2)]
        wait_until(lambda: bench.supervisor.busy == 2, what="two calls at once")
        wide = bench.start(until, [(str(second),)], cores=2)
        narrow = bench.start(look)
        # one slot is free, kept for the wide call: what is narrow goes back, the wide call stays
        wait_until(lambda: statuses(narrow.outcomes) == ["returned"], what="the narrow call goes back")
        assert not wide.outcomes and bench.supervisor.busy == 2
        first.touch()
        wide.until_running()
        assert bench.supervisor.busy == 2
        assert bench.value(look)[0] == "1", "the third slot is free"
        second.touch()
        assert statuses(wide.wait()) == ["succeeded"]
        assert [statuses(bundle.wait()) for bundle in long] == [["succeeded"]] * 2


def test_a_wide_call_whose_runner_is_on_its_way_does_not_go_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Supervisor, "_interval", lambda *_: 0.0)  # whatever can be seen is seen
    short, long = tmp_path / "short", tmp_path / "long"
    with Bench(tmp_path, slots=3) as bench:
        bench.until_idle()
        narrow = [bench.start(until, [(str(gate),)]) for gate in (short, long)]
        wait_until(lambda: bench.supervisor.busy == 2, what="two calls at once")
        wide = bench.start(look, cores=2)
        time.sleep(2 * placement.WAIT_FOR_SLOT)  # from here on it goes back as soon as nothing is on its way
        assert not wide.outcomes
        short.touch()
        assert statuses(wide.wait()) == ["succeeded"]
        long.touch()
        assert [statuses(bundle.wait()) for bundle in narrow] == [["succeeded"]] * 2


def test_a_wide_call_that_finds_nothing_free_goes_back_once_and_then_stays(tmp_path: Path) -> None:
    gate = tmp_path / "open"
    with Bench(tmp_path, slots=2) as bench:
        long = [bench.start(until, [(str(gate),)]) for _ in range(2)]
        wait_until(lambda: bench.supervisor.busy == 2, what="two calls at once")
        wide = bench.start(look, cores=2)
        wait_until(lambda: statuses(wide.outcomes) == ["returned"], what="the wide call goes back")
        again = bench.start_again(wide)
        other = bench.start(look)
        wait_until(lambda: statuses(other.outcomes) == ["returned"], what="the narrow call goes back")
        assert not again.outcomes
        gate.touch()
        assert statuses(again.wait()) == ["succeeded"]
        assert [statuses(bundle.wait()) for bundle in long] == [["succeeded"]] * 2


def test_a_node_with_too_few_slots_gives_a_wide_call_back_and_goes_on(tmp_path: Path) -> None:
    with Bench(tmp_path, slots=2) as bench:
        wide = bench.start(look, cores=3)
        assert bench.value(look)[0] == "1"
        (outcome,) = wide.wait()
        assert outcome.status == Status.RETURNED
        assert "3 slots" in str(outcome.message)


def die() -> None:
    os._exit(3)


def test_a_wide_call_that_kills_its_runner_gives_all_its_slots_back(tmp_path: Path) -> None:
    with Bench(tmp_path, slots=3) as bench:
        assert statuses(bench.run(die, cores=3)) == ["lost"]
        assert statuses(bench.run(look, cores=3)) == ["succeeded"]
        running = bench.start(until, [(str(tmp_path / "never"),)], cores=2, timeout=0.3)
        assert statuses(running.wait()) == ["TIMEOUT"]
        assert bench.value(look)[0] == "1"
