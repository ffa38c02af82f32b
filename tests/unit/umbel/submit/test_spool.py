"""Calls that cannot be submitted are kept in files, and submitted later with the same key."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import TimeoutError
from pathlib import Path

import pytest

from tests.support.embedded import ROOT, environment, free_port
from tests.support.wait import wait_until
from tests.unit.umbel.scripted import ScriptedService, ScriptedTransport
from umbel import Client, Executor
from umbel.api.account import Account
from umbel.api.options import Options
from umbel.protocol import parcel
from umbel.protocol.errors import BadRequest, ServiceUnavailable, TooMany
from umbel.serialize import dump_call, dump_function
from umbel.submit import session, spool
from umbel.submit.calls import Batch, Call, Part, Route
from umbel.submit.spool import Outcome, Spool

ACCOUNT = Account("http://umbel.example", "umb_secret")


@pytest.fixture
def service() -> Iterator[ScriptedService]:
    service = ScriptedService()
    yield service
    service.release()
    session._rejects.clear()


@pytest.fixture
def client(service: ScriptedService) -> Client:
    return Client(transport=ScriptedTransport(service))


@pytest.fixture
def kept(tmp_path: Path) -> Spool:
    return Spool(ACCOUNT, tmp_path)


def batch(executor: Executor, count: int = 3, *, tried: bool = False) -> Batch:
    calls = [Call(dump_call((number,), {}), executor._session.future()) for number in range(count)]
    part = Part(dump_function(abs), calls)
    return Batch(Options(tags=("a",), retry_on=(KeyError,)), [part], tried=tried)


@pytest.fixture
def executor(client: Client) -> Executor:
    return Executor("box", client=client)


def route(executor: Executor) -> Route:
    return executor._session.route


def test_what_is_kept_is_submitted_once(
    service: ScriptedService,
    client: Client,
    executor: Executor,
    kept: Spool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = batch(executor), batch(executor, 2, tried=True)
    second.calls[1].future.abandoned = True
    for each in (first, second):
        kept.save(each, route(executor))
    assert kept.has_own()
    assert not any(b"umb_secret" in file.read_bytes() for file in kept.folder.glob("*.calls"))
    assert {file.stat().st_mode & 0o777 for file in kept.folder.iterdir()} == {0o600}
    assert kept.folder.stat().st_mode & 0o777 == 0o700
    cancelled: list[list[str]] = []
    cancel = client.cancel_tasks
    monkeypatch.setattr(client, "cancel_tasks", lambda ids: (cancelled.append(ids), cancel(ids)))
    assert kept.send(client).submitted == 5
    assert cancelled == [service.task_ids[-1:]], "one request, for the submission with a cancelled call"
    assert [request.key for request in service.submissions] == [first.key, second.key]
    request = service.submissions[0]
    assert list(request.blobs or ()) == [call.payload for call in first.calls]
    assert request.body["group_id"] == executor.group_id and request.body["endpoint_id"] == "box"
    assert request.body["options"] == {"tags": ["a"], "retry_on": ["KeyError"]}
    assert service.cancelled == service.task_ids[-1:]
    assert kept.send(client).submitted == 0 and not kept.has_own()


def test_calls_of_several_functions_are_kept_together(
    service: ScriptedService, client: Client, executor: Executor, kept: Spool
) -> None:
    parts = [
        Part(dump_function(fn), [Call(dump_call((number,), {}), executor._session.future())])
        for number, fn in enumerate((abs, len))
    ]
    both = Batch(Options(), parts, tried=True)
    kept.save(both, route(executor))
    assert kept.send(client).submitted == 2
    (request,) = service.submissions
    assert request.key == both.key and [each["calls"] for each in request.body["functions"]] == [1, 1]
    assert list(request.blobs or ()) == [call.payload for call in both.calls]
    assert len(service.functions) == 2


def test_files_of_the_first_version_are_read(
    service: ScriptedService, client: Client, executor: Executor, kept: Spool
) -> None:
    kept.save(batch(executor), route(executor))
    (file,) = kept.folder.glob("*.calls")
    head, joined = parcel.split(file.read_bytes())
    record = json.loads(head)
    (function,) = record.pop("functions")
    del function["calls"]
    blobs = parcel.cut(record.pop("sizes"), joined)
    file.write_bytes(parcel.pack({**record, **function, "version": 1}, blobs))
    assert kept.send(client).submitted == 3
    assert list(service.submissions[0].blobs or ()) == blobs[1:]


@pytest.mark.parametrize("error", [ServiceUnavailable("away"), TooMany("full")])
def test_a_service_that_is_away_costs_nothing(
    service: ScriptedService, client: Client, executor: Executor, kept: Spool, error: Exception
) -> None:
    kept.save(batch(executor), route(executor))
    service.refuse = lambda _: error  # type: ignore[return-value,assignment]
    with pytest.raises(type(error)):
        kept.send(client)
    service.refuse = lambda _: None
    assert kept.send(client).submitted == 3


def test_what_the_service_rejects_does_not_stop_the_rest(
    service: ScriptedService, client: Client, executor: Executor, kept: Spool
) -> None:
    for count in (1, 2):
        kept.save(batch(executor, count), route(executor))
    service.refuse = lambda request: BadRequest("bad") if len(request.blobs or ()) == 1 else None
    outcome = kept.send(client)
    assert (outcome.submitted, outcome.rejected) == (2, 1)
    assert len(list(kept.folder.glob("*.rejected"))) == 1
    assert not kept.has_own()


@pytest.mark.parametrize(
    "other", [Account(ACCOUNT.url, "umb_other"), Account("http://other.example", ACCOUNT.token)]
)
def test_another_users_or_services_calls_stay(
    service: ScriptedService, client: Client, executor: Executor, tmp_path: Path, other: Account
) -> None:
    Spool(other, tmp_path).save(batch(executor), route(executor))
    own = Spool(ACCOUNT, tmp_path)
    outcome = own.send(client)
    assert (outcome.submitted, outcome.foreign, service.submissions) == (0, 3, [])
    assert not own.has_own()
    assert Spool(other, tmp_path).send(client).submitted == 3


@pytest.mark.parametrize("damage", [b"", b"UMBP", b"UMBP\0\0\0\2{}", b"UMBP\0\0\0\2[]", b"\xff" * 100])
def test_a_damaged_file_is_put_aside(client: Client, executor: Executor, kept: Spool, damage: bytes) -> None:
    kept.save(batch(executor), route(executor))
    (file,) = kept.folder.glob("*.calls")
    (file.parent / f"0{file.name}").write_bytes(damage)
    assert kept.send(client).submitted == 3
    assert len(list(kept.folder.glob("*.damaged"))) == 1


def test_what_may_have_been_accepted_long_ago_is_not_repeated(
    service: ScriptedService,
    client: Client,
    executor: Executor,
    kept: Spool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept.save(batch(executor, 1, tried=True), route(executor))
    kept.save(batch(executor, 2), route(executor))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86400)
    outcome = kept.send(client)
    assert (outcome.submitted, outcome.uncertain) == (2, 1)
    assert kept.send(client, repeat=True).submitted == 1


def test_the_spool_is_bounded(executor: Executor, kept: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.save(batch(executor), route(executor))
    monkeypatch.setattr(spool, "MAX_BYTES", 100)
    with pytest.raises(OSError, match="limit"):
        kept.save(batch(executor), route(executor))


def test_a_home_without_kept_calls_has_none_and_stays_as_it_is(client: Client, tmp_path: Path) -> None:
    spool = Spool(ACCOUNT, tmp_path / "home")
    assert not spool.has_own()
    assert spool.send(client) == spool.send(client, wait=False) == Outcome()
    assert not spool.folder.exists()


def test_calls_are_kept_in_a_home_that_does_not_exist_yet(executor: Executor, tmp_path: Path) -> None:
    spool = Spool(ACCOUNT, tmp_path / "a" / "home")
    spool.save(batch(executor), route(executor))
    assert spool.has_own()


def test_the_folder_is_synchronized_after_each_change(
    client: Client, executor: Executor, kept: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    sync = spool._sync

    def count(folder: Path) -> None:
        found.append(len(list(folder.glob("*.calls"))))
        sync(folder)

    monkeypatch.setattr(spool, "_sync", count)
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), fsync(fd)))
    kept.save(batch(executor), route(executor))
    assert found == [1] and len(synced) >= 2, "file and folder"
    kept.send(client)
    assert found == [1, 0] and len(synced) >= 3


def test_two_programs_do_not_submit_the_same_calls(
    service: ScriptedService, client: Client, executor: Executor, kept: Spool
) -> None:
    kept.save(batch(executor), route(executor))
    other = os.open(kept.folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    before = len(os.listdir("/proc/self/fd"))
    assert kept.send(client, wait=False) == Outcome()
    assert len(os.listdir("/proc/self/fd")) == before
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(kept.send(client)))
    thread.start()
    thread.join(0.1)
    assert not outcomes and not service.submissions and kept.has_own()
    os.close(other)
    thread.join(10)
    assert outcomes == [Outcome(submitted=3)] and len(os.listdir("/proc/self/fd")) == before - 1


def test_a_program_with_a_failed_future_that_was_looked_at_keeps_nothing(service: ScriptedService) -> None:
    service.refuse = lambda _: ServiceUnavailable("away")
    executor = service.executor()
    executor._session.client.transport.account = ACCOUNT  # type: ignore[attr-defined]
    futures = [executor.submit(abs, number) for number in range(3)]
    executor.shutdown(wait=True)
    ending = session._Exit(executor._session)
    assert ending.has_unsent
    assert futures[0].exception(10) is not None
    assert not ending.has_unsent and ending.take_unsent() == []


def test_flush(service: ScriptedService, executor: Executor) -> None:
    executor.flush(0)
    service.hold()
    futures = [executor.submit(abs, number) for number in range(100)]
    with pytest.raises(TimeoutError):
        executor.flush(0.05)
    service.release()
    executor.flush(10)
    assert all(future.task_id for future in futures)
    service.refuse = lambda _: BadRequest("bad")
    failed = executor.submit(abs, 1)
    with pytest.raises(BadRequest):
        executor.flush(10)
    assert isinstance(failed.exception(10), BadRequest)
    executor.flush(10)
    service.finish_all()
    executor.shutdown()


PROGRAM = """
import atexit
atexit.register(print, "last")
from umbel import Executor
{body}
print("end", flush=True)
{ending}
"""


def run(tmp_path: Path, body: str, ending: str = "") -> subprocess.CompletedProcess[str]:
    url = f"http://127.0.0.1:{free_port()}"
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM.format(body=body, ending=ending)],
        env=environment(UMBEL_HOME=str(tmp_path / "home"), UMBEL_API_URL=url, UMBEL_TOKEN="umb_x"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "executor.shutdown(wait=False)", "1 / 0"])
def test_a_program_that_ends_with_unsent_calls_says_so(tmp_path: Path, ending: str) -> None:
    body = """
atexit.register(print, "first")
executor = Executor("local", submit_timeout=0.2)
for number in range(300):
    executor.submit(abs, number)
"""
    ended = run(tmp_path, body, ending)
    assert ended.returncode == 120
    assert ended.stdout == "end\nfirst\nlast\n"
    assert "300 of 300 calls were not submitted; 300 are kept in" in ended.stderr
    assert list((tmp_path / "home" / "spool").glob("*.calls"))


def test_calls_that_failed_unseen_before_the_end_are_kept(tmp_path: Path) -> None:
    body = """
from umbel import Client
with Executor("local", client=Client(patience=0.1)) as executor:
    for number in range(300):
        executor.submit(abs, number)
"""
    ended = run(tmp_path, body)
    assert ended.returncode == 120 and "300 of 300" in ended.stderr


def test_a_home_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    body = 'executor = Executor("local", submit_timeout=0.2)\nexecutor.submit(abs, 1)'
    ended = run(tmp_path, body)
    assert ended.returncode == 120 and "1 of 1 calls were not submitted; 1 are lost" in ended.stderr


def test_the_next_program_submits_them(
    service: ScriptedService, executor: Executor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UMBEL_HOME", str(tmp_path))
    monkeypatch.setattr(spool, "_checked", set())
    Spool(ACCOUNT).save(batch(executor, 7), route(executor))
    monkeypatch.setattr(ScriptedTransport, "account", ACCOUNT, raising=False)
    service.echo = True
    with service.executor() as later:
        assert later.submit(abs, 1).result(10) == 0
    wait_until(lambda: sorted(service.batches()) == [1, 7], what="the kept calls")
    wait_until(lambda: not Spool(ACCOUNT).has_own(), what="the file to go")
    gc.collect()
    assert os.listdir(tmp_path / "spool") == ["lock"]


def test_calls_of_another_version_of_the_sdk_are_put_aside(
    client: Client, executor: Executor, kept: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(spool, "VERSION", spool.VERSION + 1)
        kept.save(batch(executor), route(executor))
    assert kept.send(client) == Outcome()
    assert len(list(kept.folder.glob("*.damaged"))) == 1 and not kept.has_own()


@pytest.fixture
def flushes(client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Spool]:
    """The spools that are sent in the background."""
    monkeypatch.setenv("UMBEL_HOME", str(tmp_path))
    monkeypatch.setattr(spool, "_checked", set())
    monkeypatch.setattr(ScriptedTransport, "account", ACCOUNT, raising=False)
    sent: list[Spool] = []
    monkeypatch.setattr(spool, "_send", lambda _, each: sent.append(each))
    return sent


def test_kept_calls_are_looked_for_once(client: Client, executor: Executor, flushes: list[Spool]) -> None:
    Spool(ACCOUNT).save(batch(executor), route(executor))
    for _ in range(3):
        spool.send_in_background(client)
    wait_until(lambda: flushes, what="the thread")
    with pytest.raises(AssertionError):
        wait_until(lambda: len(flushes) > 1, timeout=0.1)


def test_no_thread_starts_without_kept_calls(client: Client, flushes: list[Spool]) -> None:
    spool.send_in_background(client)
    with pytest.raises(AssertionError):
        wait_until(lambda: flushes, timeout=0.1)


def test_an_account_without_a_home_keeps_nothing(
    client: Client, flushes: list[Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: object = None) -> Path:
        raise OSError("no home directory")

    monkeypatch.setattr(spool, "home_directory", missing)
    spool.send_in_background(client)
    assert not flushes


def test_the_background_waits_neither_for_other_programs_nor_for_the_service(
    service: ScriptedService,
    client: Client,
    executor: Executor,
    kept: Spool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept.save(batch(executor), route(executor))
    other = os.open(kept.folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    thread = threading.Thread(target=spool._send, args=(client, kept))
    thread.start()
    thread.join(5)
    waits = thread.is_alive()
    os.close(other)
    thread.join(5)
    assert not waits and not service.submissions
    service.refuse = lambda _: ServiceUnavailable("away")
    spool._send(client, kept)
    assert "not submitted yet" in caplog.text and kept.has_own()
