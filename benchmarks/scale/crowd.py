"""W19: the API with many endpoints, tasks, users, long polls and submitters."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.clock import Clock, settle
from benchmarks.peers.base import ROOT
from umbel import Client

from .crowd_ledger import Account, Sizes, fill
from .crowd_load import RESULTS, Times
from .fairness import summary
from .service import ScaleService
from .slots import SERVICE

if TYPE_CHECKING:
    from benchmarks.session import Session

USERS, ENDPOINTS, POLLS, SUBMITTERS = 500, 10_000, 200, 50
#: Users whose endpoints have simulated nodes (one each, with so many slots), for the submitters.
ACTIVE, SLOTS = 5, 64
#: Seconds of the measurements without and with load, and of the latter with ``--quick``.
IDLE_SECONDS, LOAD_SECONDS, QUICK_SECONDS = 20.0, 60.0, 20.0
#: Pause between two requests of the probe, seconds.
PROBE_PAUSE = 0.02


def run(session: Session, n: int) -> None:
    """Emit a record for each route, and for the idle service; ``n``: finished tasks in the ledger."""
    service = session.peer
    assert isinstance(service, ScaleService)
    service.stop()
    accounts = fill(service.home / "ledger.sqlite", Sizes(USERS, ENDPOINTS, n, n // 10))
    began = time.perf_counter()
    service.start()
    started = time.perf_counter() - began
    submitters = _submitters(service, accounts)
    session.record_processes()
    _idle(session, n, started)
    _loaded(session, n, accounts, submitters)


def _submitters(service: ScaleService, accounts: Sequence[Account]) -> list[dict[str, str]]:
    """Give some users an endpoint with nodes and a function; return the accounts of the submitters."""
    found = []
    for number, account in enumerate(accounts[:ACTIVE]):
        client = Client(service.url, account.token)
        service.add_endpoint(f"active{number}", 1, SLOTS, client=client).wait_known()
        found.append(
            {
                "token": account.token,
                "function": service.function(client),
                "endpoint": f"active{number}",
            }
        )
    return [found[number % ACTIVE] for number in range(SUBMITTERS)]


def _idle(session: Session, n: int, started: float) -> None:
    """Emit the share of a core that the service takes while nothing happens."""
    session.allowance = settle(session.mark, session.allowance)
    with Clock(session.mark, session.peer.roles) as clock:
        time.sleep(IDLE_SECONDS)
    shares = {role: round(spent / clock.seconds, 4) for role, spent in sorted(clock.cpu.items())}
    total = sum(shares.get(role, 0.0) for role in (*SERVICE, "up"))
    session.emit(
        "W19",
        **{**clock.record(n), "case": "idle", "kind": "idle", "start_s": round(started, 2)},
        **{"idle_share": round(total, 4), "shares": shares},
    )


def _loaded(
    session: Session, n: int, accounts: Sequence[Account], submitters: Sequence[Mapping[str, str]]
) -> None:
    """Emit the times of each route while polls wait and submitters submit."""
    service, seconds = session.peer, QUICK_SECONDS if session.options.quick else LOAD_SECONDS
    assert isinstance(service, ScaleService)
    waiting = [account for account in accounts[ACTIVE:] if account.group_id]
    polls = [
        {"token": account.token, "group": account.group_id}
        for account, _ in zip(itertools.cycle(waiting), range(POLLS))
    ]
    # the polls in one process, the submitters in another: what one computes does not delay the other
    records = [{"polls": polls, "submitters": []}, {"polls": [], "submitters": list(submitters)}]
    times, running = Times(), []
    with Clock(session.mark, service.roles) as clock:
        for number, record in enumerate(records):
            file = session.folder / f"load{number}.json"
            file.write_text(json.dumps({**record, "url": service.url, "seconds": seconds}), encoding="utf-8")
            running.append(_start(str(file)))
        session.record_processes()
        _probe(service.url, waiting, time.monotonic() + seconds, times)
        for process in running:
            output, _ = process.communicate()
            if process.returncode:
                raise RuntimeError("the load failed: see the log of the session")
            times.add(json.loads(output))
    record = {**clock.record(n), "errors": len(times.errors), "messages": times.errors[:10]}
    session.emit("W19", **{**record, "case": "all requests", "kind": "all", "calls": _count(times)})
    for route, each in sorted(times.routes.items()):
        kind = "whole" if route == RESULTS else "route"
        session.emit("W19", **clock.record(n), case=route, kind=kind, **summary(each))


def _count(times: Times) -> int:
    return sum(map(len, times.routes.values())) + len(times.errors)


def _start(file: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")])}
    command = [sys.executable, "-m", "benchmarks.scale.crowd_load", file]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)


def _probe(url: str, accounts: Sequence[Account], until: float, times: Times) -> None:
    """Request every route in turn, each time as another user."""
    chance = random.Random(19)
    while time.monotonic() < until:
        account = chance.choice(accounts)
        with Client(url, account.token, patience=0.0) as client:
            for route, request in _requests(client, account).items():
                with times.measured(route):
                    request()
                time.sleep(PROBE_PAUSE)


def _requests(client: Client, account: Account) -> dict[str, Callable[[], Any]]:
    """Return the requests of one user by route."""
    finished = next(iter(client.tasks(1, state="succeeded")), None)
    task = str(finished["id"]) if finished else ""
    requests: dict[str, Callable[[], Any]] = {
        "GET /v1/tasks": lambda: list(client.tasks(100)),
        "GET /v1/tasks?state=queued": lambda: list(client.tasks(100, state="queued")),
        "GET /v1/tasks?state=failed": lambda: list(client.tasks(100, state="failed")),
        "GET /v1/tasks?endpoint_id=": lambda: list(client.tasks(100, endpoint_id=account.endpoint_id)),
        "GET /v1/tasks?group_id=": lambda: list(client.tasks(100, group_id=account.group_id)),
        "GET /v1/groups/{id}": lambda: client.get_group(account.group_id),
        "GET /v1/groups/{id}/results": lambda: client.group_results(account.group_id),
        "GET /v1/endpoints": lambda: list(client.endpoints(100)),
        "GET /v1/endpoints/{id}": lambda: client.get_endpoint(account.endpoint_id),
        "GET /v1/functions": lambda: list(client.functions(100)),
        "GET /v1/me": client.whoami,
        "GET /v1/health": client.health,
        "GET /v1/version": client.version,
    }
    if task:
        requests["GET /v1/tasks/{id}"] = lambda: client.get_task(task)
        requests["GET /v1/tasks/{id}/result"] = lambda: client.get_task_result(task)
        requests["GET /v1/tasks/{id}/log"] = lambda: client.get_log(task)
    return requests
