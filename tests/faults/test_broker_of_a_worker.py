"""A worker whose broker is full, read-only or without its account waits, and goes on when that is cured."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from federation.standalone import redis_server
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.bench import ENDPOINT
from tests.unit.endpoint_worker.node.test_worker import Site, answers, nap
from umbel.protocol import names

#: Calls that run or wait while the fault lasts.
CALLS = 6
#: Seconds that a fault lasts: the worker tries to connect several times.
LASTS = 4.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    server = start(tmp_path)
    site = Site(tmp_path, redis_server.broker_url(tmp_path))
    site.server = server  # type: ignore[attr-defined]
    try:
        site.start()
        yield site
    finally:
        site.close()
        process: subprocess.Popen[bytes] = site.server  # type: ignore[attr-defined]
        process.terminate()
        process.wait(10)


def start(home: Path) -> subprocess.Popen[bytes]:
    """Start a broker that keeps its data, but not its accounts, over a restart."""
    argv = [*redis_server.prepare(home), "--appendonly", "yes"]
    server = subprocess.Popen(argv, cwd=home / "redis", stdout=subprocess.DEVNULL)
    with redis.Redis.from_url(redis_server.broker_url(home)) as client:
        wait_until(lambda: answers(client), what="the broker")
    return server


def during(site: Site, fault: Callable[[], Any], cure: Callable[[], Any], word: str) -> None:
    """Calls run while ``fault`` lasts; afterwards each has succeeded once, by the same process."""
    bundles = [site.send(nap, [(0.3,)]) for _ in range(CALLS)]
    site.until(lambda: site.rows, "the first call runs")
    fault()
    # the connections of the worker are cut, as a restart or a failover does
    for kind in ("normal", "pubsub"):
        site.broker.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    log = site.home / "worker.log"
    wait_until(lambda: word in log.read_text(), 15, what=f"the worker's log names the cause: {word}")
    process = site.process
    assert process is not None
    until = time.monotonic() + LASTS
    wait_until(
        lambda: process.poll() is not None or time.monotonic() > until, LASTS + 1, what="some attempts"
    )
    assert process.poll() is None, log.read_text()[-2000:]
    cure()
    for bundle in bundles:
        assert site.ended(bundle, 20) == ["succeeded"]
    assert site.value(pid_of_parent) == process.pid and process.poll() is None
    assert log.read_text().count("cannot be used for") < 12


def pid_of_parent() -> int:
    import os

    return os.getppid()


def test_a_broker_that_is_full(site: Site) -> None:
    def fill() -> None:
        site.broker.config_set("maxmemory-policy", "noeviction")
        site.broker.config_set("maxmemory", 1)

    during(site, fill, lambda: site.broker.config_set("maxmemory", 0), "maxmemory")


def test_a_broker_that_is_a_replica_for_a_while(site: Site) -> None:
    during(
        site,
        lambda: site.broker.execute_command("REPLICAOF", "127.0.0.1", "1"),
        lambda: site.broker.execute_command("REPLICAOF", "NO", "ONE"),
        "read-only",
    )


def test_an_account_that_is_lost_and_made_again(site: Site) -> None:
    during(site, lambda: site.broker.acl_deluser(names.broker_user(ENDPOINT)), site.let_in, "account")


def test_rights_that_are_missing_for_a_while(site: Site) -> None:
    user = names.broker_user(ENDPOINT)
    during(
        site,
        lambda: site.broker.execute_command("ACL", "SETUSER", user, "-@all", "+ping"),
        site.let_in,
        "right",
    )


def test_a_broker_that_keeps_its_data_but_not_its_accounts_over_a_restart(site: Site) -> None:
    bundles = [site.send(nap, [(0.3,)]) for _ in range(CALLS)]
    site.until(lambda: site.rows, "the first call runs")
    site.server.terminate()  # type: ignore[attr-defined]
    site.server.wait(10)  # type: ignore[attr-defined]
    site.server = start(site.home)  # type: ignore[attr-defined]
    log = site.home / "worker.log"
    wait_until(lambda: "rejects the account" in log.read_text(), 15, what="the log names the cause")
    site.let_in()
    for bundle in bundles:
        assert site.ended(bundle, 20) == ["succeeded"]


def test_garbage_in_the_queue(site: Site) -> None:
    """Garbage, and messages that are nearly those of Celery, are discarded by a worker."""
    tag = {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "q"}}
    message = {"properties": tag, "headers": {"task": "x", "id": "1"}, "body": "e30=", "content-type": "a/b"}
    odd: list[Any] = [
        7,
        None,
        [],
        {},
        {"properties": 1},
        {"properties": {}},
        {"properties": {"delivery_tag": []}},
    ]
    odd += [{**message, "headers": headers} for headers in (None, 7, "task", [], {"task": []}, {"task": {}})]
    odd += [
        {**message, "headers": {**message["headers"], "task": names.RUN_TASK, "id": odd_id}}
        for odd_id in (0, [])
    ]
    odd += [
        {**message, "body": body, "properties": {**tag, "body_encoding": "base64"}} for body in (1, "#", [])
    ]
    raw = [b"", b"\0\xff", b"{", b"1e999", b"[" * 100_000, *(json.dumps(one).encode() for one in odd)]
    pid = site.value(pid_of_parent)
    site.broker.lpush(names.queue_key(ENDPOINT), *(raw * 3))
    assert site.value(pid_of_parent) == pid
    wait_until(lambda: not site.broker.llen(names.queue_key(ENDPOINT)), 10, what="an empty queue")
    bundles = [site.send(nap, [(0.1,)]) for _ in range(CALLS)]
    for bundle in bundles:
        assert site.ended(bundle, 20) == ["succeeded"]
    assert site.value(pid_of_parent) == pid
    log = (site.home / "worker.log").read_text()
    assert "discarded" in log and "Connection to broker lost" not in log
