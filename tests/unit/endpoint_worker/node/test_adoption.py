"""Reports of ended nodes go to exactly one running node; those of running nodes stay."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import fakeredis
import pytest

from endpoint_worker.config.directory import EndpointDirectory
from endpoint_worker.node import adoption
from endpoint_worker.node.adoption import Adoption
from endpoint_worker.reporting import holdings
from endpoint_worker.reporting.outbox import Outbox
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.reporting.service import Service, make, outcome, payloads

#: Nodes of two batch jobs of one endpoint.
FIRST, SECOND = "umbel-0a0a0a0a-00000001.n1-abc123", "umbel-0a0a0a0a-00000002.n1-abc123"


@pytest.fixture
def directory(tmp_path: Path) -> EndpointDirectory:
    return EndpointDirectory(tmp_path, "hpc")


@contextmanager
def node(directory: EndpointDirectory, name: str, server: fakeredis.FakeServer) -> Iterator[Outbox]:
    """The outbox of a node, which is killed at the end: it leaves its lease and what is unsent."""
    with fakeredis.FakeRedis(server=server) as client:
        box, _ = make(client, directory.spool / name, name, name)
        box.renew_lease("1")
        box.start()
        try:
            yield box
        finally:
            box._spool.leave = lambda: None  # type: ignore[method-assign]
            box.close(0.1)


def leave_report(directory: EndpointDirectory, name: str, task: str) -> Path:
    """Let a node write a report that it cannot send, and be killed; return its spool."""
    server = fakeredis.FakeServer()
    server.connected = False
    spool = directory.spool / name
    with directory.lock(name) as fd, node(directory, name, server) as box:
        box.add(f"bundle-of-{task}", [outcome(task, b"kept")])
        wait_until(lambda: list(spool.glob("*.report")), what="the report is kept")
        content = (directory.path / "run" / f"{name}.pid").read_bytes()
        assert fd
    # a killed process does not empty its pid file
    (directory.path / "run" / f"{name}.pid").write_bytes(content)
    return spool


def test_the_next_block_sends_the_reports_of_a_killed_one(
    directory: EndpointDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdings, "ROUND_SECONDS", 0.02)
    spool = leave_report(directory, FIRST, "t1")
    server = fakeredis.FakeServer()
    with directory.lock(SECOND), node(directory, SECOND, server) as box:
        Adoption(directory, SECOND, box.adopt).poll()
        service = Service(fakeredis.FakeRedis(server=server))
        wait_until(lambda: service.held(SECOND) == {"bundle-of-t1"}, what="its bundle is held")
        wait_until(lambda: service.reports and not box.held, what="it is sent and taken")
        found = service.reports
        assert payloads(found) == [("bundle-of-t1", "t1", b"kept")]
        assert (found[0].node, found[0].instance) == (FIRST, FIRST), "unchanged"
    assert not spool.exists() and not (directory.path / "run" / f"{FIRST}.pid").exists()
    assert not list((directory.spool / SECOND).glob("*.report"))


def test_a_node_that_runs_keeps_its_reports(directory: EndpointDirectory) -> None:
    spool = leave_report(directory, FIRST, "t1")
    with directory.lock(FIRST), directory.lock(SECOND):
        adopted: list[Path] = []
        Adoption(directory, SECOND, adopted.extend).poll()
    assert not adopted and list(spool.glob("*.report"))


def test_a_node_of_another_host_has_ended_when_its_lease_stands_still(
    directory: EndpointDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = leave_report(directory, FIRST, "t1")
    (directory.path / "run" / f"{FIRST}.pid").write_text("17 elsewhere/abcdef 0\n")
    now = [1000.0]
    monkeypatch.setattr(adoption.time, "monotonic", lambda: now[0])
    adopted: list[Path] = []
    (directory.spool / SECOND).mkdir()
    searcher = Adoption(directory, SECOND, adopted.extend)

    def later(seconds: float) -> None:
        now[0] += seconds
        searcher.poll()

    later(0.0)
    for beat in range(5):  # file locks do not reach that host, but the node runs
        (spool / "lease").write_text(f"beat {beat}")
        later(adoption.LEASE_SECONDS / 2)
    assert not adopted
    later(adoption.LEASE_SECONDS - 1)
    assert not adopted
    later(adoption.LEASE_SECONDS)
    assert [path.parent.name for path in adopted] == [SECOND]
    assert not list(spool.parent.glob(f"{FIRST}/*"))


def test_nodes_that_adopt_at_once_get_each_report_once(directory: EndpointDirectory) -> None:
    for number in range(20):
        leave = directory.spool / f"old{number}"
        leave.mkdir(parents=True)
        (leave / f"{number:020d}-x.report").write_bytes(b"x")
    names = [f"n{number}" for number in range(4)]
    adopted: dict[str, list[Path]] = {name: [] for name in names}
    barrier = threading.Barrier(len(names))

    def search(name: str) -> None:
        barrier.wait(10)
        Adoption(directory, name, adopted[name].extend).poll()

    for name in names:
        (directory.spool / name).mkdir()
    with ExitStack() as locks:
        for name in names:
            locks.enter_context(directory.lock(name))
        run(search, names)
    every = [path.name for paths in adopted.values() for path in paths]
    assert len(every) == len(set(every)) == 20
    assert all(path.exists() for paths in adopted.values() for path in paths)


def run(search: Callable[[str], None], names: list[str]) -> None:
    threads = [threading.Thread(target=search, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
