"""W16: an endpoint with 131,072 slots beside one with 64, and 8,192 slots of long calls."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmarks import processes
from benchmarks.clock import Clock
from umbel import Client
from umbel.serialize import dump_call

from .bag import Bag, push
from .service import SMALL, Nodes, ScaleService

if TYPE_CHECKING:
    from benchmarks.session import Session

#: The large endpoint, and the one of long calls: nodes, slots of each.
LARGE, LONG = (2_048, 64), (128, 64)
#: Seconds of a long call; a measurement lasts as long as one, and all slots may be busy that long before it.
LONG_SECONDS = 30.0
#: Seconds in which the large endpoint does nothing but beat.
IDLE_SECONDS = 10.0
#: Processes of the service whose processor time is compared.
SERVICE = ("web", "collect", "sweep", "redis")


def run(session: Session, n: int) -> None:
    """Emit records of ``n`` no-ops on the large endpoint, and of the long calls before them."""
    service = session.peer
    assert isinstance(service, ScaleService)
    with Client() as client:
        function_id = service.function(client)
        small = _small(session, Bag(function_id, SMALL, n // 10), client)
        _long(session, service, client, 2 if session.options.quick else 4)
        nodes = service.add_endpoint("large", *LARGE)
        fields: dict[str, Any] = {"known_s": round(nodes.wait_known(), 1), "slots": LARGE[0] * LARGE[1]}
        idle = _idle(session)
        session.record_processes()
        processes.reset_peaks(processes.of_session(session.mark))
        with Clock(session.mark, service.roles) as clock:
            push(client, Bag(function_id, "large", n))
        record = clock.record(n)
    own = cpu_of_service(record)
    fields |= {"idle_share": idle, "service_ms": own, "small_ms": cpu_of_service(small)}
    fields["service_ratio"] = round(sum(own.values()) / sum(fields["small_ms"].values()), 3)
    session.emit("W16", **record, **fields, **_executed(nodes, n), peak_mb=session.peaks())


def cpu_of_service(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the processor time per task of each process of the service, ms."""
    spent = record["cpu_ms_per_task_by_process"]
    return {role: spent.get(role, 0.0) for role in SERVICE}


def _small(session: Session, bag: Bag, client: Client) -> dict[str, Any]:
    """Return the record of the same on an endpoint with 64 slots."""
    with Clock(session.mark, session.peer.roles) as clock:
        push(client, bag)
    return clock.record(bag.count)


def _idle(session: Session) -> dict[str, float]:
    """Return the shares of a core that each process takes while all nodes beat."""
    with Clock(session.mark, session.peer.roles) as clock:
        time.sleep(IDLE_SECONDS)
    return {role: round(spent / clock.seconds, 3) for role, spent in sorted(clock.cpu.items())}


def _long(session: Session, service: ScaleService, client: Client, waves: int) -> None:
    """Emit the shares of a core while 8,192 slots run calls of 30 s."""
    slots = LONG[0] * LONG[1]
    nodes = service.add_endpoint("long", *LONG, seconds=LONG_SECONDS)
    nodes.wait_known()
    function_id, n, group = service.function(client), waves * slots, None
    for _ in range(waves):
        payloads = [dump_call((number,), {}) for number in range(slots)]
        group = client.submit(function_id, "long", payloads, group_id=group)["group_id"]
    # on a slow machine the first calls end before all slots are busy
    deadline = time.monotonic() + LONG_SECONDS
    while nodes.statistics()["busy"] < 0.95 * slots and time.monotonic() < deadline:
        time.sleep(0.1)
    before = nodes.statistics()
    with Clock(session.mark, service.roles) as clock:
        time.sleep(LONG_SECONDS * (waves - 1))
    started = nodes.statistics()["executed"] - before["executed"]
    while not client.get_group(group or "")["finished"]:
        time.sleep(1.0)
    shares = {role: round(spent / clock.seconds, 3) for role, spent in sorted(clock.cpu.items())}
    record = {**clock.record(max(1, started)), "n": n, "shares": shares, "collect_share": shares["collect"]}
    record["busy"] = before["busy"]
    session.emit("W16long", **record, **_executed(nodes, n))
    nodes.stop()


def _executed(nodes: Nodes, n: int) -> dict[str, int]:
    """Return how many of ``n`` calls were not executed, and how many starts were repetitions."""
    deadline = time.monotonic() + 5.0
    while (found := nodes.statistics())["executed"] < n and time.monotonic() < deadline:
        time.sleep(0.2)
    return {"again": found["again"], "missing": n - found["executed"], "bundles": found["bundles"]}
