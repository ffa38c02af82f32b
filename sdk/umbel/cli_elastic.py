"""``umbel endpoint``: elastic endpoints, whose workers come as batch jobs on a site behind SSH."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import click

from .cli_output import Record, print_json, print_table, when
from .client import Client
from .transport import Request

#: Seconds for which a command tries to reach the service.
PATIENCE = 30.0
COLUMNS: Sequence[tuple[str, Callable[[Record], Any]]] = (
    ("JOB", lambda block: block["job_id"] or "?"),
    ("STATE", lambda block: block["state"]),
    ("NODES", lambda block: block["nodes"]),
    ("BUSY", lambda block: f"{block['busy']}/{block['slots']}"),
    ("WAITED", lambda block: "" if block["queue_wait"] is None else f"{block['queue_wait']:.0f} s"),
    ("SUBMITTED", lambda block: when(block["submitted"])),
    ("WHERE", lambda block: ",".join(block["hosts"])[:30]),
    ("REASON", lambda block: block["reason"][:40]),
)
SCHEDULERS = ("slurm", "gridengine", "pbs", "lsf", "htcondor", "processes")


def ask(method: str, path: str, body: Any = None) -> Any:
    """Send one request to the service in use."""
    with Client(patience=PATIENCE) as client:
        return client.transport.send(Request(method, path, body=body))


@click.group()
def endpoint() -> None:
    """Elastic endpoints: batch jobs that come with the queue and go after it."""


@endpoint.command()
@click.argument("address", metavar="ssh://USER@HOST[:PORT]")
@click.option("--name", required=True, help="What the endpoint shall be called.")
@click.option("--scheduler", required=True, type=click.Choice(SCHEDULERS), help="The site's batch system.")
@click.option("--set", "rules", multiple=True, metavar="RULE=NUMBER", help="A rule, such as max_blocks=10.")
@click.option("--site", "settings", multiple=True, metavar="KEY=TEXT", help="Such as network=tunnel.")
@click.option("--directive", "directives", multiple=True, help="A line for the batch system.")
@click.option("--setup", multiple=True, help="A command before the worker, such as 'module load gcc'.")
@click.option("--yes", is_flag=True, help="Trust the host key that the site shows.")
@click.option("--dry-run", is_flag=True, help="Show the job script and make nothing.")
def add(
    address: str,
    name: str,
    scheduler: str,
    rules: tuple[str, ...],
    settings: tuple[str, ...],
    directives: tuple[str, ...],
    setup: tuple[str, ...],
    yes: bool,
    dry_run: bool,
) -> None:
    """Make an elastic endpoint on the site at ADDRESS."""
    site: Record = {"address": address, "scheduler": scheduler, **dict(map(_pair, settings))}
    site.update(directives=list(directives), setup=list(setup))
    policy = {rule: _number(value) for rule, value in map(_pair, rules)}
    body = {"name": name, "site": site, "policy": policy}
    if dry_run:
        click.echo(ask("POST", "/v1/sites", {**body, "dry_run": True})["script"], nl=False)
        return
    shown = ask("POST", "/v1/sites", body)
    for key in shown.get("host_keys", ()):
        click.echo(f"The site shows the host key {key['fingerprint']}")
    if not yes:
        click.confirm("Is that the one that the site publishes?", abort=True)
    site["host_keys"] = [key["key"] for key in shown["host_keys"]]
    made = ask("POST", "/v1/sites", {**body, "confirm": True})
    click.echo(f"Endpoint '{name}' is made. Append this line to ~/.ssh/authorized_keys on the site:")
    click.echo(made["authorized_keys"])


@endpoint.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def blocks(name: str, as_json: bool) -> None:
    """Show the blocks of elastic endpoint NAME."""
    found = ask("GET", f"/v1/endpoints/{quote(name, safe='')}/blocks")
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['status']}  {found['message']}\nlast decision: {found['decision']}")
    print_table(found["blocks"], COLUMNS, "There are no blocks.")


@endpoint.command()
@click.argument("name")
@click.option("--reason", default="by its owner", show_default=True)
def pause(name: str, reason: str) -> None:
    """Submit no more blocks for NAME; what runs goes on."""
    ask("POST", f"/v1/endpoints/{quote(name, safe='')}/pause", {"reason": reason})
    click.echo(f"Endpoint '{name}' is paused; go on with: umbel endpoint resume {name}")


@endpoint.command()
@click.argument("name")
def resume(name: str) -> None:
    """Submit blocks for NAME again."""
    ask("POST", f"/v1/endpoints/{quote(name, safe='')}/resume")
    click.echo(f"Endpoint '{name}' goes on")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"'{text}' wants the form NAME=VALUE")
    return name, value


def _number(text: str) -> float:
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        raise click.UsageError(f"'{text}' is no number") from None
