"""A bag of no-ops through the API: submitted in the largest submissions, followed, each result checked.

``python -m benchmarks.scale.bag FILE``: print a line, wait for one, push the bag that the JSON file
describes, print its rate.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from umbel import Client
from umbel.api.options import Options
from umbel.protocol import names
from umbel.protocol.limits import MAX_CALLS_PER_SUBMISSION, MAX_WAIT
from umbel.serialize import dump_call, load_result

#: Line after which a process begins.
BEGUN = "begin\n"


class Bag(NamedTuple):
    """``count`` calls of a function that returns its argument.

    ``ahead``: calls that are submitted ahead of the results that were read.
    """

    function_id: str
    endpoint: str
    count: int
    ahead: int = 500_000
    priority: int | None = None


def push(client: Client, bag: Bag) -> float:
    """Run a bag; return the seconds until the last result.

    Raises RuntimeError if a call failed, or a result is wrong, missing or there twice.
    """
    group, seen, failure = names.new_id(), bytearray(bag.count), list[BaseException]()
    read, accepted = threading.Semaphore(0), threading.Event()

    def submit() -> None:
        try:
            with client_of(client) as own:
                _submit(own, bag, group, read, accepted)
        except BaseException as error:
            failure.append(error)
            accepted.set()

    began = time.perf_counter()
    thread = threading.Thread(target=submit, daemon=True)
    thread.start()
    accepted.wait()
    _follow(client, bag, group, seen, read, failure)
    seconds = time.perf_counter() - began
    thread.join()
    return seconds


def client_of(client: Client) -> Client:
    """Return another client of the same user, for another thread."""
    return Client(transport=client.transport.clone())


def _submit(
    client: Client, bag: Bag, group: str, read: threading.Semaphore, accepted: threading.Event
) -> None:
    options = None if bag.priority is None else Options(priority=bag.priority)
    for first in range(0, bag.count, MAX_CALLS_PER_SUBMISSION):
        count = min(MAX_CALLS_PER_SUBMISSION, bag.count - first)
        if first + count > bag.ahead:
            for _ in range(count):
                read.acquire()
        payloads = [dump_call((number,), {}) for number in range(first, first + count)]
        client.submit(bag.function_id, bag.endpoint, payloads, group_id=group, options=options)
        accepted.set()


def _follow(
    client: Client,
    bag: Bag,
    group: str,
    seen: bytearray,
    read: threading.Semaphore,
    failure: list[BaseException],
) -> None:
    cursor = total = 0
    while total < bag.count:
        if failure:
            raise failure[0]
        page = client.group_results(group, cursor, MAX_WAIT)
        for row in page["results"]:
            if row["state"] != "succeeded":
                raise RuntimeError(f"a call ended as {row['state']}: {row['code']} {row['message']}")
            number = load_result(row["result"])
            if seen[number]:
                raise RuntimeError(f"call {number} has two results")
            seen[number] = 1
        cursor, new = page["cursor"], len(page["results"])
        total += new
        if new:
            read.release(new)


def main() -> None:
    """Push a bag."""
    record: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with Client(record["url"], record["token"]) as client:
        bag = Bag(*record["bag"])
        client.whoami()
        print("ready", flush=True)
        sys.stdin.readline()
        seconds = push(client, bag)
    print(json.dumps({"n": bag.count, "seconds": seconds, "tasks_per_s": bag.count / seconds}))


if __name__ == "__main__":
    main()
