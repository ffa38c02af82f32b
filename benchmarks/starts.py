"""W8: duration of the first call in a runner, in every installed sandbox and in an environment.

*Cold* is the first call of a user: an environment is built, a runner started, the function loaded. *Start* is
the same with an existing environment. *Warm* is a single call in a running runner. No service takes part,
only the supervisor of a worker.

To run it alone: ``python -m benchmarks.starts``.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from endpoint_worker.config.directory import EndpointDirectory
from endpoint_worker.config.environments import Environments
from endpoint_worker.config.sandbox import Sandbox
from endpoint_worker.config.settings import Settings
from endpoint_worker.intake.router import Router
from endpoint_worker.runners.job import Job, Sink
from endpoint_worker.runners.options import RunnerOptionsBuilder, runner_options
from endpoint_worker.scheduling.supervisor import Supervisor
from tests.support import rootfs, sandboxes, wheels
from umbel import function
from umbel.protocol import names
from umbel.protocol.messages import Bundle, Call, FunctionRef, Outcome, Status
from umbel.serialize import dump_call, dump_function

from .functions import BY_NAME

#: Number of starts and of warm calls; their medians are reported.
STARTS, CALLS = 5, 200
#: Time limit of one call, seconds.
LIMIT = 120.0

Record = dict[str, Any]


class Worker:
    """A worker of one slot without Celery; ``environment``: functions need a package, from a local wheel."""

    def __init__(self, folder: Path, settings: Settings, *, environment: bool):
        endpoint = EndpointDirectory(folder / "home", "bench")
        builder = RunnerOptionsBuilder(runner_options(endpoint, settings))
        self._ended: dict[str, list[Outcome]] = {}
        self._done = threading.Event()
        self._supervisor = Supervisor(builder.base, 1, self._receive, _tell)
        sink: Sink = self._receive
        self._router = Router(
            settings.environments,
            settings.rules,
            builder,
            endpoint.cache,
            self._supervisor.submit,
            sink,
            _tell,
        )
        same = BY_NAME["same"]
        self._function = dump_function(function(requirements=["umbelbench"])(_same) if environment else same)
        self._supervisor.start()

    def call(self) -> float:
        """Make one call; return its duration in seconds. Raises RuntimeError if it failed."""
        data, payload = self._function.data, dump_call((7,), {})
        ref = FunctionRef(names.new_id(), self._function.name, hashlib.sha256(data).hexdigest(), len(data))
        (task,) = names.new_task_ids(1, time.time())
        bundle = Bundle(
            names.new_id(), "bench", ref, [Call(task, 1, 0, len(payload))], user="ada", body=payload
        )
        self._done.clear()
        began = time.perf_counter()
        self._router.route(Job(bundle, data, on_done=self._done.set))
        if not self._done.wait(LIMIT):
            raise RuntimeError(f"no answer within {LIMIT:g} s: {self._supervisor.problem}")
        seconds = time.perf_counter() - began
        last = self._ended.pop(bundle.id)[-1]
        if last.status != Status.SUCCEEDED:
            raise RuntimeError(f"the call ended as {last.status}: {last.message}")
        return seconds

    def renew(self) -> None:
        """End the runner; the next call waits for another one."""
        self._supervisor.replace_all()

    def close(self) -> None:
        """End everything."""
        self._router.close()
        self._supervisor.stop()

    def _receive(self, bundle: str, outcomes: list[Outcome]) -> None:
        self._ended.setdefault(bundle, []).extend(outcomes)


def _same(item: Any) -> Any:
    import umbelbench  # type: ignore[import-not-found]  # noqa: F401 (that it is there is the point)

    return item


def _tell(callbacks: list[Callable[[], None]]) -> None:
    for callback in callbacks:
        callback()


def kinds() -> list[str]:
    """Return the names of the measurements that are possible on this machine."""
    there = [kind for kind, program in sandboxes.PROGRAMS.items() if shutil.which(program)]
    return [
        "no sandbox",
        *sorted(there),
        "environment",
        *(["environment in bubblewrap"] if "bubblewrap" in there else []),
    ]


def measure(number: int, *, quick: bool = False) -> Iterator[Record]:
    """Yield the record of each kind for round ``number``."""
    with tempfile.TemporaryDirectory(prefix="umbel-starts-") as name:
        folder = Path(name)
        image = rootfs.make(folder / "image")
        wheels.make(folder / "wheels", "umbelbench", "1.0")
        for kind in kinds():
            record: Record = {"peer": kind, "work": "W8", "round": number, "n": 1}
            try:
                record.update(
                    _measure(folder / kind.replace(" ", "-"), kind, image, folder / "wheels", quick)
                )
            except (RuntimeError, OSError) as error:
                record = {"peer": kind, "work": "error", "round": number, "error": str(error)[:500]}
            yield record


def _measure(folder: Path, kind: str, image: Path, packages: Path, quick: bool) -> Record:
    sandbox = kind.rpartition(" ")[2]
    closed = Sandbox(**sandboxes.table(sandbox, image)) if sandbox in sandboxes.PROGRAMS else Sandbox()
    options = ["--no-index", "--find-links", str(packages)]
    settings = Settings(name="bench", sandbox=closed, environments=Environments(options=options))
    with _others() as others:
        worker = Worker(folder, settings, environment=kind.startswith("environment"))
        try:
            cold = worker.call()
            starts = []
            for _ in range(1 if quick else STARTS):
                worker.renew()
                starts.append(worker.call())
            warm = [worker.call() for _ in range(CALLS // 10 if quick else CALLS)]
        finally:
            worker.close()
    return {
        "cold_ms": round(cold * 1000, 1),
        "start_ms": round(statistics.median(starts) * 1000, 1),
        "warm_ms": round(statistics.median(warm) * 1000, 3),
        "others": others[0],
    }


@contextmanager
def _others() -> Iterator[list[float]]:
    """Measure the share of the machine that other programs use during the block."""
    found = [0.0]
    began, busy, own = time.monotonic(), _busy(), _own()
    yield found
    used = max(0.0, (_busy() - busy) - (_own() - own))
    found[0] = round(used / ((time.monotonic() - began) * (os.cpu_count() or 1)), 3)


def _busy() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def _own() -> float:
    mine = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in mine)


def main() -> int:
    """Measure once and print the records."""
    failed = 0
    for record in measure(1):
        failed += "error" in record
        print(record, flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
