"""Run simulated nodes until SIGTERM: ``python -m benchmarks.nodes CREDENTIALS --nodes 2048 --slots 64``."""

from __future__ import annotations

import argparse
import base64
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from endpoint_worker.broker.client import connect
from endpoint_worker.broker.clock import BrokerClock
from endpoint_worker.intake.receive import FunctionCache, Intake
from endpoint_worker.node import inventory
from umbel.protocol.envelope import Signer, Verifier

from .fleet import Fleet
from .node import Shared

#: Seconds between two statistics.
STATISTICS_SECONDS = 0.5


def fleet(options: argparse.Namespace) -> Fleet:
    """Return the nodes of a command line."""
    record = json.loads(options.credentials.read_text(encoding="utf-8"))
    folder = options.credentials.parent / f"{options.credentials.stem}.nodes"
    client, clock = connect(record["broker_url"]), BrokerClock()
    verifier = Verifier(base64.b64decode(record["service_key"]))
    intake = Intake(
        record["endpoint_id"], verifier, FunctionCache(folder / "functions"), client, clock=clock.now
    )

    def make(later: Any) -> Shared:
        return Shared(
            endpoint=record["endpoint_id"],
            signer=Signer(bytes.fromhex(record["key"])),
            intake=intake,
            client=client,
            clock=clock,
            spool=folder / "spool",
            slots=options.slots,
            later=later,
            seconds=options.seconds,
            facts={**inventory.of_node(), "packages": inventory.packages()},
        )

    return Fleet(make, options.nodes, connect(record["broker_url"]))


def write(file: Path, statistics: dict[str, Any]) -> None:
    """Replace a file with these statistics."""
    draft = file.with_suffix(".tmp")
    draft.write_text(json.dumps(statistics), encoding="utf-8")
    os.replace(draft, file)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nodes", description=__doc__)
    parser.add_argument(
        "credentials", type=Path, help="JSON: endpoint_id, broker_url, service_key (base64), key (hex)"
    )
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--slots", type=int, default=64, help="slots of each node (default: 64)")
    parser.add_argument("--seconds", type=float, default=0.0, help="run time of each call (default: 0)")
    parser.add_argument("--statistics", type=Path, help="file for counts, written twice a second")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the nodes."""
    options = parse()
    logging.basicConfig(level=logging.WARNING, format="nodes: %(message)s")
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    signal.signal(signal.SIGINT, lambda number, _: ended.append(number))
    nodes = fleet(options)
    written = 0.0
    while not ended:
        nodes.turn()
        if options.statistics and time.monotonic() - written >= STATISTICS_SECONDS:
            written = time.monotonic()
            write(options.statistics, nodes.statistics())
    nodes.close()
    if options.statistics:
        write(options.statistics, nodes.statistics())
    sys.stdout.flush()


if __name__ == "__main__":
    main()
