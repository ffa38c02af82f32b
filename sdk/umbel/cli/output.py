"""Output of the ``umbel`` command: tables for people, JSON for programs, errors as exit codes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from ..api.account import find_account
from ..api.client import Client
from ..protocol.errors import NotFound, ServiceUnavailable, TaskError, UmbelError

Record = dict[str, Any]

#: Exit codes, for scripts. Click exits with 2 after wrong usage.
TASK_FAILED, UNREACHABLE, NOT_FOUND, REFUSED, NOT_READY = 1, 3, 4, 5, 6

#: Seconds for which a command tries to reach the service.
PATIENCE = 30.0

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")

#: States that are printed in colour.
_COLOURS = {
    "succeeded": "green",
    "online": "green",
    "failed": "red",
    "expired": "red",
    "offline": "yellow",
    "running": "cyan",
}


class Commands(click.Group):
    """A group of commands that prints an UmbelError, or a file that cannot be used, as one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except UmbelError as error:
            click.echo(f"umbel: {error.message} [{error.code}]", err=True)
            ctx.exit(exit_code(error))
        except OSError as error:
            if error.filename is None:
                raise  # not about a file: click handles a closed pipe
            click.echo(f"umbel: {error.filename}: {error.strerror or error}", err=True)
            ctx.exit(REFUSED)


def exit_code(error: BaseException) -> int:
    """Return the exit code of an error."""
    if isinstance(error, ServiceUnavailable):
        return UNREACHABLE
    if isinstance(error, NotFound):
        return NOT_FOUND
    if isinstance(error, UmbelError) and error.code == "RESULT_NOT_READY":
        return NOT_READY
    if isinstance(error, TaskError):
        return TASK_FAILED
    return REFUSED


def connect() -> Client:
    """Return a client of the current service."""
    return Client(patience=PATIENCE)


def print_json(value: Any, indent: int | None = 2) -> None:
    """Print a value as JSON. Objects that JSON does not support are printed as Python's ``repr``."""
    click.echo(json.dumps(value, indent=indent, default=repr))


def print_table(
    records: Iterable[Record], columns: Sequence[tuple[str, Callable[[Record], Any]]], nothing: str
) -> None:
    """Print records as a table with a title and a function per column, or ``nothing`` if there are none."""
    rows = [[_text(value(record)) for _, value in columns] for record in records]
    if not rows:
        click.echo(nothing, err=True)
        return
    titles = [title for title, _ in columns]
    widths = [max(map(len, cells)) for cells in zip(titles, *rows)]
    click.secho("  ".join(title.ljust(width) for title, width in zip(titles, widths)).rstrip(), bold=True)
    for row in rows:
        cells = [_colour(cell, cell.ljust(width)) for cell, width in zip(row, widths)]
        click.echo("  ".join(cells).rstrip())


def print_record(record: Record, names: Sequence[str]) -> None:
    """Print a record as lines of name and value. Values that are not set are left out."""
    shown = [(name, record.get(name)) for name in names]
    width = max(len(name) for name in names)
    for name, value in shown:
        if value is None or value == {} or value == []:
            continue
        text = when(value) if name in ("created", "dispatched", "started", "finished") else _text(value)
        click.echo(f"{name.replace('_', ' ').ljust(width)}  {_colour(text, text)}")


def when(seconds: float | None) -> str:
    """Return a time (seconds since 1970) as local date and time."""
    if not seconds:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def suspension(endpoint: Record) -> str:
    """Return why an endpoint's workers cannot connect to the broker now; empty: they can."""
    record = endpoint.get("suspended")
    return f"suspended until {when(record['until'])}: {record['reason']}" if record else ""


def duration(seconds: float | None) -> str:
    """Return a duration for people: ``3.2 ms``, ``41.0 s``, ``2 h 5 min``."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float | None) -> str:
    """Return a number of bytes for people: ``812 B``, ``3.5 MiB``."""
    if count is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def service_url() -> str:
    """Return the address of the current service."""
    return find_account().url


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}={_text(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return str(value)


def _colour(cell: str, text: str) -> str:
    colour = _COLOURS.get(cell)
    return click.style(text, fg=colour) if colour else text
