"""Clients that submit random jobs, wait for them, and write down what they see."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from itertools import count
from pathlib import Path
from typing import Any

from tests.soak import calls
from tests.support.embedded import Embedded
from umbel import Client, Executor
from umbel.futures import UmbelFuture
from umbel.protocol.errors import NotFound, ServiceUnavailable, TaskError
from umbel.protocol.limits import DEFAULT_MAX_ATTEMPTS

#: A job must be done within this time, seconds: a dead node is noticed after a minute, and may die again.
JOB_DEADLINE = 240.0
#: Bytes of a large argument.
LARGE = 100_000
#: How long a call of an impatient client may wait for its acceptance, seconds.
IMPATIENCE = 1.0


class Log:
    """The client's log; see ``history``."""

    def __init__(self, file: Path):
        self._file = file.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def write(self, **event: Any) -> None:
        """Add an event."""
        with self._lock:
            self._file.write(json.dumps(event) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Load:
    """What all clients share: the federation, the logs, the numbers of the calls."""

    def __init__(self, umbel: Embedded, folder: Path, seed: int, url: str):
        """``url``: where clients find the API."""
        self.umbel = umbel
        self.url = url
        self.folder = folder
        self.seed = seed
        self.log = Log(folder / "client.jsonl")
        self.groups: list[str] = []
        self.failures: list[BaseException] = []
        #: Set it, and the clients end at once: nothing can be shown any more.
        self.hopeless = threading.Event()
        self._numbers = count(1)

    def run(self, seconds: float, clients: int = 3) -> None:
        """Run so many clients for so long; every one finishes its last job. Raises what a client raised."""
        until = time.monotonic() + seconds
        threads = [threading.Thread(target=self._client, args=(number, until)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for failure in self.failures:
            raise failure

    def look(self, client: Client, group_id: str) -> None:
        """Write down all results of a group as the service shows them now."""
        after = 0
        while page := _results(client, group_id, after):
            for row in page:
                payload = repr((row["result"], row["exception"])).encode()
                self.log.write(
                    event="seen", group=group_id, task=row["task_id"], completion=row["completion"],
                    state=row["state"], code=row["code"], digest=hashlib.sha256(payload).hexdigest(),
                )  # fmt: skip
                after = row["completion"]

    def _client(self, number: int, until: float) -> None:
        chance = random.Random(self.seed * 100 + number)
        try:
            client = self.umbel.client(url=self.url)
            jobs: list[Callable[[_Job], None]] = []
            while time.monotonic() < until and not self.hopeless.is_set():
                if not jobs:
                    jobs = chance.sample(JOBS, len(JOBS))  # each kind gets its turn
                _Job(self, client, chance).run(jobs.pop())
                self.hopeless.wait(chance.uniform(0, 0.5))  # people pause
        except BaseException as error:  # the test's thread raises it
            self.failures.append(error)
            self.hopeless.set()

    def number(self) -> int:
        """A number for a call."""
        return next(self._numbers)


class _Job:
    """One group of calls."""

    def __init__(self, load: Load, client: Client, chance: random.Random):
        self._load, self._client, self.chance = load, client, chance
        #: Future -> the number of its call and the value it should have.
        self.futures: dict[Future[Any], tuple[int, Any]] = {}
        #: Futures that were cancelled before the service had answered that it has them.
        self.withdrawn: set[Future[Any]] = set()

    def run(self, job: Callable[[_Job], None]) -> None:
        """Submit, wait, write down."""
        self._executor = Executor("local", client=self._client)
        self._load.groups.append(self._executor.group_id)
        job(self)
        deadline = time.monotonic() + JOB_DEADLINE
        while not self._load.hopeless.is_set() and time.monotonic() < deadline:
            if not wait(self.futures, timeout=1.0).not_done:
                break
        for future, (number, value) in self.futures.items():
            if future.done():
                outcome = _outcome(future, value)
                if outcome == "cancelled" and future in self.withdrawn:
                    outcome = "withdrawn"
                self._load.log.write(event="ended", number=number, task=_task(future), outcome=outcome)
        hanging = any(not future.done() for future in self.futures)
        if hanging:
            self._executor.shutdown(wait=False)
            self._load.hopeless.set()
            return
        self._executor.shutdown()
        self._load.look(self._client, self._executor.group_id)

    def submit(
        self, function: Callable[..., Any], *args: Any, may: str = "value", starts: int = 0, **options: Any
    ) -> Future[Any]:
        """Submit a call that may end as ``may`` says (words) after at most ``starts`` starts."""
        number = self._load.number()
        # calls with other options go through an executor of their own into the same group
        group = self._executor.group_id
        self._load.log.write(
            event="made", number=number, group=group, may=may.split(), starts=starts or DEFAULT_MAX_ATTEMPTS
        )
        executor = (
            Executor("local", client=self._client, group_id=group, **options) if options else self._executor
        )
        future: Future[Any] = executor.submit(function, str(self._load.folder), number, *args)
        if options:
            executor.shutdown(wait=False)
        self.futures[future] = (number, (number, *args) if function is calls.echo else number)
        return future


def _results(client: Client, group_id: str, after: int) -> list[dict[str, Any]]:
    try:
        return list(client.group_results(group_id, after)["results"])
    except NotFound:  # none of its calls was accepted
        return []


def _task(future: Future[Any]) -> str | None:
    """Id of the task behind a future, None if the service has not answered that there is one."""
    assert isinstance(future, UmbelFuture)
    return future.task_id


def _outcome(future: Future[Any], value: Any) -> str:
    """How a future ended; see ``history``."""
    try:
        result = future.result(timeout=0)
    except CancelledError:
        return "cancelled"
    except TaskError as error:
        return error.code
    except ServiceUnavailable as error:
        return {"STORAGE_FULL": "refused", "UNAVAILABLE": "unanswered"}.get(error.code, repr(error))
    except ValueError as error:
        return "ValueError" if error.args == (value,) else f"a wrong exception: {error!r}"
    except BaseException as error:  # a wrong one is a finding of the checker
        return f"{type(error).__name__}: {error}"[:300]
    return "value" if result == value else f"a wrong value: {repr(result)[:80]}"


def _burst(job: _Job) -> None:
    for _ in range(job.chance.randint(100, 1500)):
        job.submit(calls.quick)


def _mixture(job: _Job) -> None:
    for _ in range(job.chance.randint(20, 150)):
        if job.chance.random() < 0.7:
            job.submit(calls.quick)
        else:
            job.submit(calls.nap, job.chance.choice((0.001, 0.01, 0.1, 0.5)))


def _one_by_one(job: _Job) -> None:
    for _ in range(job.chance.randint(5, 30)):
        wait([job.submit(calls.quick)], timeout=JOB_DEADLINE)


def _large(job: _Job) -> None:
    for _ in range(job.chance.randint(5, 30)):
        job.submit(calls.echo, job.chance.randbytes(LARGE))


def _failures(job: _Job) -> None:
    for _ in range(job.chance.randint(5, 50)):
        job.submit(calls.fail, may="ValueError")
    for _ in range(job.chance.randint(1, 5)):
        job.submit(calls.fail_first, retries=1, starts=DEFAULT_MAX_ATTEMPTS + 1)


def _deaths(job: _Job) -> None:
    for _ in range(job.chance.randint(1, 3)):
        job.submit(calls.die_first)
        job.submit(calls.quick)
    job.submit(calls.die, may="WORKER_LOST")


def _cancelled(job: _Job) -> None:
    futures = [
        job.submit(calls.nap, 0.05, may="value cancelled withdrawn")
        for _ in range(job.chance.randint(10, 80))
    ]
    job.chance.shuffle(futures)
    for future in futures[: len(futures) // 2]:
        if _task(future) is None:
            job.withdrawn.add(future)
        future.cancel()


def _expiring(job: _Job) -> None:
    for _ in range(job.chance.randint(5, 40)):
        job.submit(calls.nap, 0.02, may="value EXPIRED", expires=job.chance.choice((0.05, 1.0)))
        job.submit(calls.quick, expires=3600.0)  # whatever clocks say


def _impatient(job: _Job) -> None:
    for _ in range(job.chance.randint(5, 20)):
        future = job.submit(calls.quick, may="value unanswered", submit_timeout=IMPATIENCE)
        wait([future], timeout=job.chance.uniform(0.1, 0.5))


JOBS = [_burst, _burst, _mixture, _mixture, _one_by_one, _large, _failures, _deaths, _cancelled, _expiring]
JOBS += [_impatient]
