"""Run W9 alone, print the tables and write the records."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.environments import CACHE
from benchmarks.report import as_text, render

from .systems import PEERS, measure, missing


def main() -> int:
    """Run W9; return 1 if something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.elastic")
    parser.add_argument("--rounds", type=int, default=3, help="first results per system (default: 3)")
    parser.add_argument(
        "--systems", default=",".join(["umbel", *PEERS]), help="systems to measure (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=CACHE / "elastic.json",
        help="file for the records (default: %(default)s)",
    )
    options = parser.parse_args()
    reason = missing()
    if reason:
        print(f"Not run: {reason}", file=sys.stderr)
        return 0
    records = []
    for record in measure(options.systems.split(","), options.rounds):
        records.append(record)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(records, indent=1) + "\n")
    print(render(records, as_text))
    return int(any("error" in record for record in records))


if __name__ == "__main__":
    sys.exit(main())
