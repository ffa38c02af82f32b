"""Two hundred nasty calls among two thousand good ones, through the SDK, on an endpoint with two slots.

Every good call is right and finds its runner clean, every nasty one ends with its own code, and afterwards
nothing is left of them: no process, and no more memory or open files than before.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from tests.support.embedded import Embedded, HandEndpoint, pids_with
from tests.support.nasty import KINDS, LIMITS, STRAY, Unloadable, nasty
from tests.support.wait import wait_until
from umbel import Executor

GOOD, NASTY = 2000, 200
#: Seconds for all calls on a machine that does little else, times three.
DEADLINE = 300.0
MIB = 1024 * 1024
#: Seconds after which a runner has started, and is not replaced for what its last call left behind.
SETTLED = 2.0
#: Bytes by which a process may be larger afterwards: a runner keeps what its last function loaded.
GROWTH = 24 * MIB

pytestmark = pytest.mark.timeout(600)


def good(number: int) -> int:
    """Right only where nothing of an earlier call is left."""
    import os
    import signal
    import sys
    import threading

    assert os.sep.join(["", "work", ".calls", ""]) in os.getcwd() and not os.listdir(".")
    assert "NASTY" not in os.environ and "PATH" in os.environ
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert not [thread for thread in threading.enumerate() if thread.name == "nasty"]
    print("good", number)
    sys.stdout.flush()
    return number * number


class Size(NamedTuple):
    """What a worker and its runners take: descriptors of each, threads of all, resident bytes of each."""

    files: list[int]
    threads: int
    resident: list[int]


def _kinds(dice: random.Random, count: int) -> list[str]:
    """Every kind at least once, the rest by weight, in any order."""
    weights = [kind.weight for kind in KINDS.values()]
    chosen = [*KINDS, *dice.choices(list(KINDS), weights, k=count - len(KINDS))]
    dice.shuffle(chosen)
    return chosen


def _submit(executor: Executor, kind: str) -> Any:
    return executor.submit(nasty, Unloadable() if kind == "cannot_be_loaded" else kind)


def _mix(umbel: Embedded, dice: random.Random, goods: int, nasties: int) -> None:
    """Run good and nasty calls in random order and check each one's end."""
    order: list[int | str] = [*range(goods), *_kinds(dice, nasties)]
    dice.shuffle(order)
    client = umbel.client()
    with ExitStack() as stack:
        executors = {
            name: stack.enter_context(Executor("lab", client=client, max_attempts=2, **limits))
            for name, limits in LIMITS.items()
        }
        pairs = []
        for item in order:
            if isinstance(item, int):
                pairs.append((item, executors[""].submit(good, item)))
            else:
                pairs.append((item, _submit(executors[KINDS[item].limits], item)))
        _, late = wait([future for _, future in pairs], timeout=DEADLINE)
        assert not late, f"{len(late)} have no end: {Counter(i for i, f in pairs if f in late)}"
        wrong = [
            (item, future.record, future.exception()) for item, future in pairs if not _right(item, future)
        ]
    assert not wrong


def _right(item: int | str, future: Any) -> bool:
    if future.record is None:
        return False
    if isinstance(item, int):
        return future.exception() is None and bool(future.result() == item * item)
    code = KINDS[item].code
    wanted = ("succeeded", None) if code is None else ("failed", code)
    return (future.record["state"], future.record["code"]) == wanted


def _size(endpoint: HandEndpoint) -> Size | None:
    """None while runners come and go."""
    worker = psutil.Process(endpoint.pid)
    # a runner may have children that have ended: their exit status belongs to the code that started them
    runners = [each for each in worker.children(recursive=True) if each.status() != psutil.STATUS_ZOMBIE]
    if any(time.time() - runner.create_time() < SETTLED for runner in runners):
        return None
    family = [worker, *runners]
    return Size(
        [process.num_fds() for process in family],
        sum(process.num_threads() for process in family),
        [process.memory_info().rss for process in family],
    )


def _at_rest(endpoint: HandEndpoint, holds: Callable[[Size], bool]) -> Size:
    """The size at rest, once it is as it should be: runners are replaced for a moment after work."""

    def look() -> Size | None:
        try:
            size = _size(endpoint)
        except psutil.NoSuchProcess:
            return None
        whole = size is not None and len(size.files) == 1 + endpoint.slots
        return size if size and whole and holds(size) else None

    try:
        return wait_until(look, 20, what="worker and runners at rest")  # type: ignore[return-value]
    except AssertionError:
        size = _size(endpoint)
        raise AssertionError(f"worker and runners do not come to rest: {size}") from None


def test_nasty_calls_harm_nobody_and_leave_nothing(tmp_path: Path) -> None:
    seed = time.time_ns() % 10**9
    print(f"seed {seed}")  # shown when it fails
    dice = random.Random(seed)
    with Embedded(tmp_path, workers=0) as umbel:
        # runners that are kept beyond the slots would come and go between the two looks
        lab = umbel.endpoint("lab", slots=2, settings="warm_runners = 0")
        # whatever is loaded and kept the first time is there before anything is measured
        _mix(umbel, dice, GOOD // 10, 2 * len(KINDS))
        before = _at_rest(lab, lambda size: True)
        _mix(umbel, dice, GOOD, NASTY)
        wait_until(lambda: not pids_with(STRAY), 10, what="the end of what calls left running")
        after = _at_rest(lab, lambda size: size.files <= before.files and size.threads <= before.threads)
        grown = [
            now - then for now, then in zip(sorted(after.resident), sorted(before.resident), strict=True)
        ]
        print(f"before {before}, after {after}")
        assert max(grown) < GROWTH
        spool = lab.home / "endpoints" / "lab" / "spool"
        wait_until(lambda: not list(spool.rglob("*.report")), 10, what="an empty spool")
