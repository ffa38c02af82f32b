"""What the ``umbel`` command shows of what calls wrote and used."""

from __future__ import annotations

import click

from .output import Record, connect, duration, print_json, print_table, size

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")

_SECONDS = ("queued", "wall", "cpu", "user", "system")


@click.command()
@click.argument("task_id", metavar="TASK")
@click.option("--follow", "-f", is_flag=True, help="Go on until the task has ended.")
@as_json
def logs(task_id: str, follow: bool, as_json: bool) -> None:
    """Print what a task wrote to standard output and error, also while it runs.

    With --json and --follow: one object per line.
    """
    with connect() as client:
        if not follow:
            record = client.get_log(task_id)
            print_json(record) if as_json else click.echo(record["text"], nl=False)
            return
        attempt = None
        for record in client.follow_log(task_id):
            if attempt not in (None, record["attempt"]):
                click.echo(f"--- try {record['attempt']} ---", err=True)
            attempt = record["attempt"]
            print_json(record, indent=None) if as_json else click.echo(record["text"], nl=False)


@click.command()
@click.argument("function_id", metavar="FUNCTION")
@as_json
def summary(function_id: str, as_json: bool) -> None:
    """Show what calls of a function used (at most 1,000 of the newest), for choosing limits."""
    with connect() as client:
        record = client.function_summary(function_id)
    if as_json:
        print_json(record)
        return
    rows = [{"name": name, **figures} for name, figures in record["quantities"].items() if figures]
    print_table(
        rows,
        [
            ("QUANTITY", lambda row: row["name"]),
            ("P50", lambda row: _shown(row, "p50")),
            ("P95", lambda row: _shown(row, "p95")),
            ("MAX", lambda row: _shown(row, "max")),
            ("CALLS", lambda row: row["calls"]),
        ],
        "No call of this function has ended yet.",
    )


def _shown(row: Record, figure: str) -> str:
    return duration(row[figure]) if row["name"] in _SECONDS else size(row[figure])
