"""W17: lone calls while other users, or the same user, push large bags."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.clock import Clock
from benchmarks.functions import same
from benchmarks.peers.base import ROOT
from umbel import Client, Executor

from .bag import BEGUN, Bag
from .service import ScaleService

if TYPE_CHECKING:
    from benchmarks.session import Session

#: Nodes and slots of the endpoint of each user.
PLACE = (4, 64)
#: Lone calls while nothing else runs.
IDLE_CALLS = 300
#: Numbers of users with a bag at a time.
USERS = (1, 3)


class Case(NamedTuple):
    """``name``: for the table; ``own``: one of the bags is on the lone calls' endpoint; ``priority``: theirs.

    Users cannot submit to endpoints of others, so that a bag on the same endpoint is the same user's.
    """

    name: str
    own: bool
    priority: int


CASES = (
    Case("other endpoint", False, 0),
    Case("same endpoint, priority 100", True, 100),
    Case("same user", True, 0),
)


class User(NamedTuple):
    """A user with an endpoint of this name and a registered function."""

    client: Client
    endpoint: str
    function_id: str


def run(session: Session, n: int) -> None:
    """Emit a record for each case, and one without bags; ``n``: calls of a bag."""
    service = session.peer
    assert isinstance(service, ScaleService)
    lone = _user(service, Client(), "lone")
    others = [_user(service, service.add_user(f"user{number}"), f"bulk{number}") for number in range(3)]
    with Executor("lone", client=lone.client) as executor:
        _calls(executor, lambda count: count < 20)
        with Clock(session.mark, service.roles) as clock:
            idle = _calls(executor, lambda count: count < IDLE_CALLS)
    session.emit("W17", **{**clock.record(len(idle)), "n": n}, case="no bags", **summary(idle))
    session.record_processes()
    alone: dict[tuple[bool, int], float] = {}
    for case in CASES:
        for count in USERS:
            owners = ([lone] if case.own else []) + others
            key = case.own, count
            if key not in alone:
                alone[key] = _alone(session, [_bag(owner, n) for owner in owners[:count]])
            _measure(session, case, [_bag(owner, n) for owner in owners[:count]], idle, alone[key])


def _user(service: ScaleService, client: Client, endpoint: str) -> User:
    service.add_endpoint(endpoint, *PLACE, client=client).wait_known()
    return User(client, endpoint, service.function(client))


def _bag(owner: User, n: int) -> dict[str, Any]:
    """Return the description of a bag for ``benchmarks.scale.bag``."""
    account = owner.client.transport.account  # type: ignore[attr-defined]
    return {"url": account.url, "token": account.token, "bag": Bag(owner.function_id, owner.endpoint, n)}


def _alone(session: Session, bags: Sequence[dict[str, Any]]) -> float:
    """Return the rate of all bags together while nothing else runs."""
    with _pushed(session, bags) as pushing:
        rates = [_rate(each) for each in pushing]
    return sum(rates)


def _measure(
    session: Session, case: Case, bags: Sequence[dict[str, Any]], idle: Sequence[float], alone: float
) -> None:
    n = bags[0]["bag"].count
    with Executor("lone", priority=case.priority) as executor:
        _calls(executor, lambda count: count < 3)
        with _pushed(session, bags) as pushing, Clock(session.mark, session.peer.roles) as clock:
            each = _calls(executor, lambda count: all(process.poll() is None for process in pushing))
            rates = [_rate(process) for process in pushing]
    found, usual = summary(each), summary(idle)
    session.emit(
        "W17",
        **{**clock.record(n * len(bags)), "n": n},
        **{"case": f"{case.name}, {len(bags)} users", "kind": case.name, "users": len(bags), **found},
        p50_ratio=round(found["p50_ms"] / usual["p50_ms"], 3),
        p95_ratio=round(found["p95_ms"] / usual["p95_ms"], 3),
        bulk_per_s=round(sum(rates), 1),
        bulk_ratio=round(sum(rates) / alone, 3),
    )


@contextmanager
def _pushed(session: Session, bags: Sequence[dict[str, Any]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Push bags, each in a process of its own, which exist at the beginning of the block."""
    pushing: list[subprocess.Popen[str]] = []
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")])}
    try:
        for number, bag in enumerate(bags):
            file = session.folder / f"bag{number}.json"
            file.write_text(json.dumps(bag), encoding="utf-8")
            command = [sys.executable, "-m", "benchmarks.scale.bag", str(file)]
            pushing.append(
                subprocess.Popen(
                    command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environ
                )
            )
        for process in pushing:
            assert process.stdout is not None
            process.stdout.readline()
        session.record_processes()
        for process in pushing:
            assert process.stdin is not None
            process.stdin.write(BEGUN)
            process.stdin.close()
        yield pushing
    finally:
        for process in pushing:
            process.kill()
            process.wait()


def _rate(process: subprocess.Popen[str]) -> float:
    """Wait for the end of a bag; return its tasks/s."""
    assert process.stdout is not None
    output = process.stdout.read()
    if process.wait() != 0:
        raise RuntimeError("a bag failed: see the log of the session")
    return float(json.loads(output)["tasks_per_s"])


def _calls(executor: Executor, more: Callable[[int], bool]) -> list[float]:
    """Call one after another while ``more`` of their number is true; return the time of each in ms."""
    each: list[float] = []
    while more(len(each)) or not each:
        began = time.perf_counter()
        if executor.submit(same, len(each)).result() != len(each):
            raise RuntimeError("a lone call returned a wrong result")
        each.append((time.perf_counter() - began) * 1000)
    return each


def summary(each: Sequence[float]) -> dict[str, Any]:
    """Return number, median, 95th percentile and maximum of times in ms."""
    ranked = sorted(each)
    return {
        "calls": len(each),
        "p50_ms": round(statistics.median(each), 3),
        "p95_ms": round(ranked[max(0, -(-95 * len(ranked) // 100) - 1)], 3),
        "max_ms": round(ranked[-1], 3),
    }
