"""``umbel logs`` and ``umbel summary``: the output of a task, and the resources that a function uses."""

from __future__ import annotations

import click

from .output import Record, connect, duration, json_option, print_json, print_table, size

_SECONDS = ("queued", "wall", "cpu", "user", "system")


@click.command()
@click.argument("task_id", metavar="TASK")
@click.option("--follow", "-f", is_flag=True, help="Print output until the task has finished.")
@json_option
def logs(task_id: str, follow: bool, as_json: bool) -> None:
    """Print what a task has written to standard output and error, also while it runs.

    With --json and --follow, each line is a JSON object.
    """
    with connect() as client:
        if not follow:
            record = client.get_log(task_id)
            print_json(record) if as_json else click.echo(record["text"], nl=False)
            return
        attempt = None
        for record in client.follow_log(task_id):
            if attempt not in (None, record["attempt"]):
                click.echo(f"--- attempt {record['attempt']} ---", err=True)
            attempt = record["attempt"]
            print_json(record, indent=None) if as_json else click.echo(record["text"], nl=False)


@click.command()
@click.argument("function_id", metavar="FUNCTION")
@json_option
def summary(function_id: str, as_json: bool) -> None:
    """Show what the newest calls of a function used (at most 1,000), for choosing limits."""
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
        "No call of this function has finished yet.",
    )


def _shown(row: Record, figure: str) -> str:
    return duration(row[figure]) if row["name"] in _SECONDS else size(row[figure])
