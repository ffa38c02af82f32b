"""Long polls and submitters, each a thread: ``python -m benchmarks.scale.crowd_load FILE``.

The JSON file describes them; prints the times of each route in ms, and the errors.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from umbel import Client
from umbel.protocol import names
from umbel.serialize import dump_call, load_result

#: Longest time that a long poll is asked to wait, and the pause of a submitter, seconds.
WAIT, PAUSE = 10.0, 1.0
#: Calls of one submission.
CALLS = 10
#: Names of what is measured.
POLL, SUBMIT, RESULTS = "long poll, beyond its wait", "POST /v1/tasks", f"{CALLS} calls, until all results"


class Times:
    """Times in ms by route, and errors. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.routes: dict[str, list[float]] = defaultdict(list)
        self.errors: list[str] = []

    @contextmanager
    def measured(self, route: str, beyond: float = 0.0) -> Iterator[None]:
        """Add the time of the block, less ``beyond`` seconds, or its error."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            with self._lock:
                self.errors.append(f"{route}: {error!r}"[:300])
            return
        with self._lock:
            self.routes[route].append(1000 * max(0.0, time.perf_counter() - began - beyond))

    def add(self, record: dict[str, Any]) -> None:
        """Add what another process has measured."""
        self.errors += record["errors"]
        for route, times in record["routes"].items():
            self.routes[route] += times


def poll(client: Client, group: str, until: float, times: Times) -> None:
    """Wait for results of a group that has none."""
    while time.monotonic() < until:
        with times.measured(POLL, WAIT):
            page = client.group_results(group, 0, WAIT)
            if page["results"]:
                raise RuntimeError("a task that waits has a result")


def submit(client: Client, function: str, endpoint: str, until: float, times: Times) -> None:
    """Submit calls and wait for their results, again and again."""
    time.sleep(PAUSE * random.random())
    while time.monotonic() < until:
        with times.measured(RESULTS):
            _round(client, function, endpoint, times)
        time.sleep(PAUSE * (0.5 + random.random()))


def _round(client: Client, function: str, endpoint: str, times: Times) -> None:
    group = names.new_id()
    payloads = [dump_call((number,), {}) for number in range(CALLS)]
    with times.measured(SUBMIT):
        client.submit(function, endpoint, payloads, group_id=group)
    cursor, values = 0, []
    deadline = time.monotonic() + 60.0
    while len(values) < CALLS:
        page = client.group_results(group, cursor, WAIT)
        cursor = page["cursor"]
        values += [load_result(row["result"]) for row in page["results"]]
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(values)} of {CALLS} results after a minute")
    if sorted(values) != list(range(CALLS)):
        raise RuntimeError(f"wrong results: {values}")


def main() -> None:
    """Run all threads for the given time."""
    record = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    times, until = Times(), time.monotonic() + record["seconds"]

    def start(act: Callable[..., None], token: str, *arguments: Any) -> threading.Thread:
        # patience 0: an error is counted, not tried again
        client = Client(record["url"], token, patience=0.0)
        thread = threading.Thread(target=act, args=(client, *arguments, until, times), daemon=True)
        thread.start()
        return thread

    threads = [start(poll, each["token"], each["group"]) for each in record["polls"]]
    for each in record["submitters"]:
        threads.append(start(submit, each["token"], each["function"], each["endpoint"]))
    for thread in threads:
        thread.join()
    print(json.dumps({"routes": times.routes, "errors": times.errors}))


if __name__ == "__main__":
    main()
