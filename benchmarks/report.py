"""Print the records of a benchmark as tables: ``python -m benchmarks.report FILE [--rst]``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from .goals import goal_tables
from .tables import Record, Table, faults, process_tables, work_tables


def as_text(table: Table) -> str:
    """Format a table for a terminal."""
    rows = [table.heads, *table.lines]
    widths = [max(len(row[place]) for row in rows) for place in range(len(table.heads))]
    body = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([table.title, *("  " + line for line in body)])


def as_rst(table: Table) -> str:
    """Format a table for the manual."""
    rows = "\n".join(
        "\n".join(("   * - " if not place else "     - ") + text for place, text in enumerate(row))
        for row in (table.heads, *table.lines)
    )
    return f".. list-table:: {table.title}\n   :header-rows: 1\n\n{rows}\n"


def render(records: Sequence[Record], style: Callable[[Table], str]) -> str:
    """Return all tables, then the goals and the errors."""
    tables = (*work_tables(records), *process_tables(records), *goal_tables(records))
    parts = [style(table) for table in tables]
    missing = faults(records)
    if missing:
        parts.append("Not measured:\n\n" + "\n".join(f"* {line}" for line in missing))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Print the tables of a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("file", type=Path, help="file with the records")
    parser.add_argument("--rst", action="store_true", help="print reStructuredText")
    options = parser.parse_args()
    records = json.loads(options.file.read_text(encoding="utf-8"))["records"]
    print(render(records, as_rst if options.rst else as_text), end="")


if __name__ == "__main__":
    main()
