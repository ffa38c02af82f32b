"""The link between a worker and the broker is silent, cut or slow: no call is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.chaos_proxy import ChaosProxy
from tests.support.embedded import Embedded, HandEndpoint
from tests.support.wait import wait_until

#: Seconds that a silence lasts: a worker notices it, and the service does not consider its node lost.
SILENCE = 10.0


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A federation that soon sends again what was cut off on its way."""
    with Embedded(tmp_path_factory.mktemp("link"), environ={"UMBEL_RESEND_AFTER": "3"}) as embedded:
        yield embedded


@pytest.fixture(scope="module")
def lab(umbel: Embedded) -> Iterator[tuple[HandEndpoint, ChaosProxy]]:
    """An endpoint, and what is between it and the broker."""
    endpoint = umbel.endpoint("lab", slots=2)
    endpoint.stop()
    file = endpoint.folder / "credentials.json"
    credentials = json.loads(file.read_text())
    parts = urlsplit(credentials["broker_url"])
    with ChaosProxy((str(parts.hostname), int(parts.port or 0))) as link:
        moved = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{link.port}").geturl()
        file.write_text(json.dumps({**credentials, "broker_url": moved}))
        endpoint.start()
        yield endpoint, link
        endpoint.stop()


def _note(path: str, number: int, seconds: float) -> int:
    import os
    import time

    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, b"%d\n" % number)
    os.close(file)
    time.sleep(seconds)
    return number


def _all_ran_once(umbel: Embedded, group_id: str, futures: list[Future[int]], path: Path) -> None:
    _, late = wait(futures, 60)
    assert not late, f"{len(late)} of {len(futures)} futures have not ended"
    assert [future.result() for future in futures] == list(range(len(futures)))
    assert sorted(map(int, path.read_text().split())) == list(range(len(futures)))
    tasks = list(umbel.client().tasks(group_id=group_id))
    assert {(task["state"], task["attempt"]) for task in tasks} == {("succeeded", 1)}


def _silent(link: ChaosProxy, silent: bool) -> None:
    link.up.hole = link.down.hole = silent


def test_a_link_that_is_silent_while_the_worker_waits_for_work(
    umbel: Embedded, lab: tuple[HandEndpoint, ChaosProxy], tmp_path: Path
) -> None:
    """The calls come while the worker waits for its queue over a connection that swallows everything."""
    endpoint, link = lab
    path = tmp_path / "starts"
    with umbel.executor("lab") as executor:
        assert executor.submit(pow, 2, 3).result(30) == 8
        _silent(link, True)
        futures = [executor.submit(_note, str(path), number, 0.01) for number in range(50)]
        executor.flush(20)
        assert not wait(futures, SILENCE).done, "the link is not silent"
        _silent(link, False)
        link.cut()
        _, late = wait(futures, 60)
        assert not late and [future.result() for future in futures] == list(range(50))
    assert len(path.read_text().split()) == 50
    assert endpoint.service is not None and endpoint.service.process.poll() is None


def test_a_link_that_is_silent_and_cut_while_results_are_reported(
    umbel: Embedded, lab: tuple[HandEndpoint, ChaosProxy], tmp_path: Path
) -> None:
    """Results wait in the worker's spool, and each is applied once."""
    _, link = lab
    path = tmp_path / "starts"
    with umbel.executor("lab") as executor:
        futures = [executor.submit(_note, str(path), number, 0.1) for number in range(40)]
        wait_until(lambda: sum(map(Future.done, futures)) >= 5, 30, what="the first results")
        _silent(link, True)
        # the worker goes on with what it has
        before = len(path.read_text().split())
        wait_until(lambda: len(path.read_text().split()) > before, 20, what="a call without the broker")
        assert wait(futures, SILENCE / 2).not_done
        link.cut()
        _silent(link, False)
        _all_ran_once(umbel, executor.group_id, futures, path)


def test_a_link_that_is_slow_and_cut_again_and_again(
    umbel: Embedded, lab: tuple[HandEndpoint, ChaosProxy], tmp_path: Path
) -> None:
    _, link = lab
    path = tmp_path / "starts"
    link.up.delay = link.down.delay = 0.1
    try:
        with umbel.executor("lab") as executor:
            futures = [executor.submit(_note, str(path), number, 0.05) for number in range(60)]
            wait_until(lambda: sum(map(Future.done, futures)) >= 10, 40, what="10 results")
            for _ in range(3):
                before = link.accepted
                assert link.cut() > 0
                wait_until(lambda: link.accepted > before, 20, what="another connection")
            _, late = wait(futures, 60)
            assert not late and [future.result() for future in futures] == list(range(60))
        # a bundle whose message was cut off on its way costs no result, at most another start
        assert set(map(int, path.read_text().split())) == set(range(60))
    finally:
        link.up.delay = link.down.delay = 0.0


def test_an_uplink_that_swallows_everything_while_the_downlink_works(
    umbel: Embedded, lab: tuple[HandEndpoint, ChaosProxy], tmp_path: Path
) -> None:
    _, link = lab
    path = tmp_path / "starts"
    with umbel.executor("lab") as executor:
        futures = [executor.submit(_note, str(path), number, 0.1) for number in range(30)]
        wait_until(lambda: any(map(Future.done, futures)), 30, what="a result")
        link.up.hole = True
        assert wait(futures, SILENCE / 2).not_done
        link.up.hole = False
        _all_ran_once(umbel, executor.group_id, futures, path)
