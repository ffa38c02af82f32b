"""The whole worker as a process of its own, against a real redis-server with the endpoint's own account."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import redis
from celery import Celery

from endpoint_worker.config import settings
from endpoint_worker.config.directory import Credentials, EndpointDirectory
from federation.registry.broker_accounts import rules
from federation.standalone import redis_server
from tests.support.broker import running_broker
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.bench import ENDPOINT, make_bundle
from umbel.protocol import names
from umbel.protocol.envelope import Signer, Verifier, new_private_key
from umbel.protocol.limits import INLINE_BODY_BYTES
from umbel.protocol.messages import Bundle, Report, Row, Status
from umbel.protocol.node_state import Beat, NodeState
from umbel.serialize import load_result

ROOT = Path(__file__).parents[4]
SERVICE = Signer(new_private_key())


class Site:
    """An endpoint's folder and worker, and the service's side of the broker."""

    def __init__(self, home: Path, broker_url: str):
        self.home = home
        self.broker = redis.Redis.from_url(broker_url)
        parts = urlsplit(broker_url)
        self.account = f"redis://{names.broker_user(ENDPOINT)}:pw@{parts.hostname}:{parts.port}/0"
        self.admin_url = broker_url
        self.let_in()
        key = new_private_key()
        self._verifier = Verifier(Signer(key).public_key)
        self.directory = EndpointDirectory(home, "lab")
        self.directory.write(
            Credentials(ENDPOINT, "lab", "http://127.0.0.1:9", self.account, SERVICE.public_key),
            key,
            settings.template("lab", slots=2),
        )
        self.rows: list[Row] = []
        self.values: dict[str, Any] = {}
        #: what nodes have written about themselves so far, by instance, the latest last
        self.nodes: dict[str, list[NodeState]] = {}
        self.goodbyes: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    def let_in(self) -> None:
        """Make the endpoint's account, as the service does after a loss of the broker's data."""
        sha = hashlib.sha256(b"pw").hexdigest()
        words = rules(ENDPOINT, sha)
        self.broker.execute_command("ACL", "SETUSER", names.broker_user(ENDPOINT), *words)

    def start(self) -> None:
        """Start the worker from another folder; wait until it may fetch bundles."""
        log = (self.home / "worker.log").open("ab")
        environ = {
            **os.environ,
            "UMBEL_HOME": str(self.home),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sdk'}",
        }
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "endpoint_worker", "start", "lab", "--node", "n1"],
                env=environ,
                cwd="/",
                stdout=log,
                stderr=log,
            )
        pid = self.process.pid
        self.until(lambda: self.node is not None and self.node.facts["pid"] == pid, "the node")

    def close(self) -> None:
        """End what runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self.broker.close()

    def send(
        self, function: Any, arguments: Any = ((),), *, signer: Signer = SERVICE, **options: Any
    ) -> Bundle:
        """Send a bundle as the service does."""
        bundle, body = make_bundle(function, arguments, **options)
        self.broker.set(names.function_key(ENDPOINT, bundle.function.sha256), body)
        head, payload = bundle.seal(signer, time.time())
        args = [b64encode(head).decode(), b64encode(payload).decode()]
        if len(payload) > INLINE_BODY_BYTES:
            self.broker.set(names.body_key(ENDPOINT, bundle.id), payload)
            args[1:] = [None]  # type: ignore[list-item]
        self.broker.lpush(names.queue_key(ENDPOINT), celery_message(bundle, args))
        return bundle

    def value(self, function: Any) -> Any:
        """What one call returns."""
        bundle = self.send(function)
        assert self.ended(bundle) == ["succeeded"]
        return self.values[bundle.calls[0].task_id]

    @property
    def node(self) -> NodeState | None:
        """The latest description of the latest node."""
        return list(self.nodes.values())[-1][-1] if self.nodes else None

    def beat(self) -> Beat | None:
        """The beat of the latest node, None if it has none."""
        data = self.broker.hget(names.beats_key(ENDPOINT), self.node.instance) if self.node else None
        return None if data is None else Beat.read(data)

    def held(self) -> set[str]:
        """The bundles that the latest node holds."""
        assert self.node is not None
        found = self.broker.smembers(names.held_key(ENDPOINT, self.node.instance))
        return {each.decode() for each in found}

    def receive(self) -> None:
        """Take the reports that are there, and let new nodes fetch bundles."""
        for field, data in self.broker.hgetall(names.nodes_key(ENDPOINT)).items():
            instance = field.decode()
            state = NodeState.open(self._verifier, data, endpoint=ENDPOINT, instance=instance)
            known = self.nodes.setdefault(instance, [])
            if not known or known[-1] != state:
                known.append(state)
            self.broker.sadd(names.known_key(ENDPOINT), instance)
        while (data := self.broker.rpop(names.reports_key(ENDPOINT))) is not None:
            report = Report.open(self._verifier, data)
            if report.goodbye:
                self.goodbyes.append(report.instance)
            for row in report.rows:
                self.rows.append(row)
                if row.status == Status.SUCCEEDED:
                    self.values[row.task_id] = load_result(report.body[row.offset : row.offset + row.size])
            # after the "transaction" of the ledger
            self.broker.incr(names.applied_key(ENDPOINT))

    def until(self, condition: Any, what: str, timeout: float = 30.0) -> None:
        """Receive until ``condition()``."""

        def ask() -> bool:
            self.receive()
            return bool(condition())

        wait_until(ask, timeout, what=what)

    def exited(self, timeout: float = 30.0) -> int:
        """Take reports until the worker has ended; return its exit code."""
        process = self.process
        assert process is not None
        self.until(lambda: process.poll() is not None, "the end of the worker", timeout)
        return int(process.returncode)

    def ended(self, bundle: Bundle, timeout: float = 30.0) -> list[str]:
        """Wait for one final outcome per call; return them in order."""

        def final() -> list[Row]:
            return [r for r in self.rows if r.bundle_id == bundle.id and r.status != Status.RUNNING]

        self.until(lambda: len(final()) >= len(bundle.calls), f"all outcomes of {bundle.id}", timeout)
        by_id = {row.task_id: row.code or row.status for row in final()}
        assert len(by_id) == len(final()) == len(bundle.calls)
        return [by_id[call.task_id] for call in bundle.calls]


def celery_message(bundle: Bundle, args: list[Any]) -> str:
    """A message of Celery's protocol 2 on Redis, with this bundle in it."""
    body = json.dumps([args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    headers = {
        "lang": "py",
        "task": names.RUN_TASK,
        "id": bundle.id,
        "root_id": bundle.id,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "timelimit": [None, None],
        "eta": None,
        "expires": None,
        "shadow": bundle.function.name,
        "argsrepr": f"{len(bundle.calls)} calls",
        "kwargsrepr": "{}",
        "ignore_result": True,
    }
    properties = {
        "correlation_id": bundle.id,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": names.QUEUE},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": bundle.id,
    }
    return json.dumps(
        {
            "body": b64encode(body.encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": properties,
        }
    )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_broker(tmp_path) as url:
        site = Site(tmp_path, url)
        try:
            site.start()
            yield site
        finally:
            site.close()


def echo(value: Any) -> Any:
    return value


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_bundles_run_and_are_reported_and_the_end_is_clean(site: Site) -> None:
    small, large = site.send(echo, [(1,), (2,)]), site.send(echo, [("x" * 200_000,)])
    assert site.ended(small) == ["succeeded"] * 2
    assert site.ended(large) == ["succeeded"]
    assert [site.values[c.task_id] for c in small.calls] == [1, 2]
    assert site.broker.get(names.body_key(ENDPOINT, large.id)) is None

    account = names.broker_user(ENDPOINT)
    connections = [each for each in site.broker.client_list() if each["user"] == account]
    assert len(connections) <= 4, [(each["cmd"], each["age"]) for each in connections]

    forged = site.send(echo, [(3,)], signer=Signer(new_private_key()))
    many = site.send(echo, [(i,) for i in range(1000)])
    assert Counter(site.ended(many)) == {"succeeded": 1000}
    assert not any(row.bundle_id == forged.id for row in site.rows)

    running, waiting = site.send(nap, [(0.5,), (0.0,)]), site.send(nap, [(30.0,)])
    site.until(lambda: {r.bundle_id for r in site.rows} >= {running.id, waiting.id}, "both run")
    assert site.process is not None
    site.process.send_signal(signal.SIGTERM)
    assert site.exited() == 0
    assert site.ended(running) == ["succeeded", "returned"]
    assert site.ended(waiting) == ["WORKER_STOPPED"]
    site.until(lambda: site.goodbyes, "the goodbye")
    assert not list(site.directory.spool.glob("*/*"))
    (states,) = site.nodes.values()
    assert any("not signed" in state.facts.get("problem", "") for state in states)
    assert not [key for key in site.broker.keys("*:held:*") + site.broker.keys("*:fetched:*")]
    assert "pw@" not in (site.home / "worker.log").read_text()


def fail_on(value: str) -> str:
    if value.startswith("bad"):
        raise ValueError(f"the secret of {value}")
    return value


def _event_of(listening: Any, bundle: Bundle) -> dict[str, Any]:
    """The event of Celery that ends a message."""
    found: list[dict[str, Any]] = []

    def ended() -> bool:
        message = listening.get_message(timeout=0.1)
        if message is not None and message["type"] == "pmessage":
            body = json.loads(b64decode(json.loads(message["data"])["body"]))
            events = body if isinstance(body, list) else [body]
            ends = ("task-succeeded", "task-failed")
            found.extend(e for e in events if e.get("uuid") == bundle.id and e["type"] in ends)
        return bool(found)

    wait_until(ended, 30, what="the event of the end")
    return found[0]


def test_celery_shows_messages_with_failed_calls_as_failed(site: Site) -> None:
    """Flower shows what these events say."""
    with site.broker.pubsub() as listening:
        listening.psubscribe("*celeryev*")
        bundle = site.send(fail_on, [("good",), ("bad-1",), ("bad-2",)])
        assert site.ended(bundle) == ["succeeded", "TASK_ERROR", "TASK_ERROR"]
        event = _event_of(listening, bundle)
        assert event["type"] == "task-failed"
        assert "2 of 3 calls failed: TASK_ERROR" in event["exception"]
        assert "secret" not in json.dumps(event) and "bad" not in json.dumps(event)
        bundle = site.send(fail_on, [("good",)])
        assert site.ended(bundle) == ["succeeded"]
        assert _event_of(listening, bundle)["type"] == "task-succeeded"


def test_the_sites_rules_hold_whatever_the_service_sends(tmp_path: Path) -> None:
    with running_broker(tmp_path) as url:
        site = Site(tmp_path, url)
        mark = tmp_path / "ran"

        def touch(text: str) -> str:
            with mark.open("a") as file:
                file.write(text[:1])
            return text[:1]

        allowed, _ = make_bundle(touch, [("a",)])
        with site.directory.settings_file.open("a") as file:
            file.write(
                f'[rules]\nallowed_functions = ["{allowed.function.sha256}"]\n'
                'allowed_users = ["ada"]\nlargest_payload = 1000\n'
            )
        try:
            site.start()
            mixed = site.send(touch, [("a",), ("b" * 1001,), ("c",)])
            assert site.ended(mixed) == ["succeeded", "NOT_ALLOWED", "succeeded"]
            assert [site.values.get(c.task_id) for c in mixed.calls] == ["a", None, "c"]
            other = site.send(nap, [(0.0,), (0.0,)])
            assert site.ended(other) == ["NOT_ALLOWED"] * 2
            big = site.send(touch, [(os.urandom(100_000).hex(),)])
            assert site.ended(big) == ["NOT_ALLOWED"]
            assert site.broker.get(names.body_key(ENDPOINT, big.id)) is None
            site.until(lambda: not site.held(), "nothing held")
        finally:
            site.close()
        assert mark.read_text() == "ac"
        said = {row.bundle_id: row.message or "" for row in site.rows if row.code}
        assert "rule allowed_functions" in said[other.id]
        assert "rule largest_payload" in said[big.id]


def test_a_running_call_is_cancelled_by_command_and_by_the_list(site: Site) -> None:
    with Celery("service", broker=site.admin_url, set_as_current=False) as app:
        app.conf.update(
            broker_transport_options={"global_keyprefix": names.prefix(ENDPOINT)}, result_backend=None
        )
        for by_command in (True, False):
            bundle = site.send(nap, [(60.0,)])
            site.until(lambda b=bundle: any(r.bundle_id == b.id for r in site.rows), "it runs")
            task_id = bundle.calls[0].task_id
            if by_command:
                app.control.broadcast(names.CANCEL_COMMAND, arguments={"task_ids": [task_id]})
                assert site.ended(bundle, timeout=2.0) == ["skipped"]
            else:
                site.broker.zadd(names.cancelled_key(ENDPOINT), {task_id: time.time()})
                assert site.ended(bundle, timeout=10.0) == ["skipped"]
        # Celery's own way: revoke with terminate, and growing the pool
        bundle = site.send(nap, [(60.0,)])
        site.until(lambda: any(r.bundle_id == bundle.id for r in site.rows), "it runs")
        app.control.revoke(bundle.id, terminate=True, signal="SIGKILL")
        assert site.ended(bundle) == ["skipped"]
        app.control.pool_grow(1)
        site.until(lambda: site.node and site.node.slots == 3, "three slots")


def test_celerys_own_controls_do_what_they_say(site: Site) -> None:
    """Grow, shrink and restart of the pool, and a warm shutdown that gives back what has not started."""

    def slots(count: int) -> None:
        site.until(lambda: site.node and site.node.slots == count, f"{count} slots", 60)

    with Celery("service", broker=site.admin_url, set_as_current=False) as app:
        app.conf.update(
            broker_transport_options={"global_keyprefix": names.prefix(ENDPOINT)}, result_backend=None
        )
        # control commands are heard by who has subscribed, as one that runs bundles has
        assert site.value(os.getpid)
        app.control.pool_grow(2)
        slots(4)
        running = [site.send(nap, [(4.0,)]) for _ in range(4)]
        ids = {bundle.id for bundle in running}
        site.until(lambda: ids <= {row.bundle_id for row in site.rows}, "four calls at once", 60)
        app.control.pool_shrink(3)
        slots(1)
        assert [site.ended(bundle) for bundle in running] == [["succeeded"]] * 4, "what runs is not disturbed"
        before = site.value(os.getpid)
        app.control.pool_restart()
        wait_until(lambda: site.value(os.getpid) != before, 30, what="another runner")

        long, waiting = site.send(nap, [(1.0,), (0.0,)]), site.send(nap, [(0.0,)])
        site.until(lambda: any(row.bundle_id == long.id for row in site.rows), "it runs")
        app.control.shutdown()
        assert site.exited() == 0
        assert site.ended(long) == ["succeeded", "returned"]
        assert site.ended(waiting) in (["returned"], ["succeeded"])
        site.until(lambda: site.goodbyes, "the goodbye")


def test_a_cold_shutdown_stops_what_runs_and_gives_back_the_rest(site: Site) -> None:
    running = [site.send(nap, [(60.0,), (0.0,)]) for _ in range(2)]
    site.until(lambda: len({row.bundle_id for row in site.rows}) == 2, "both run")
    assert site.process is not None
    family = psutil.Process(site.process.pid).children(recursive=True)
    began = time.monotonic()
    site.process.send_signal(signal.SIGQUIT)
    site.exited()
    assert time.monotonic() - began < 15 and not any(runner.is_running() for runner in family)
    for bundle in running:
        assert site.ended(bundle) == ["WORKER_STOPPED", "returned"]


def test_a_broker_that_loses_everything_in_the_middle_of_a_call(tmp_path: Path) -> None:
    server = start_broker(tmp_path)
    site = Site(tmp_path, redis_server.broker_url(tmp_path))
    try:
        site.start()
        bundle = site.send(nap, [(3.0,)])
        site.until(lambda: any(r.bundle_id == bundle.id for r in site.rows), "it runs")
        server.kill()
        server.wait(10)
        for file in (tmp_path / "redis").glob("*.rdb"):
            file.unlink()
        server = start_broker(tmp_path)
        site.let_in()
        assert site.ended(bundle) == ["succeeded"]
        assert site.ended(site.send(echo, [(1,)])) == ["succeeded"]
        assert site.process is not None and site.process.poll() is None
    finally:
        site.close()
        server.terminate()
        server.wait(10)


def start_broker(home: Path) -> subprocess.Popen[bytes]:
    """Start the embedded broker of ``home`` and wait until it answers."""
    server = subprocess.Popen(redis_server.prepare(home), cwd=home / "redis", stdout=subprocess.DEVNULL)
    with redis.Redis.from_url(redis_server.broker_url(home)) as client:
        wait_until(lambda: answers(client), what="the broker")
    return server


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
