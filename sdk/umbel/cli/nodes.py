"""``umbel endpoint show``: an endpoint and the machines that it consists of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from ..api.client import Client
from .output import Record, print_json, print_table, when

#: Seconds for which the command tries to reach the service.
PATIENCE = 30.0
COLUMNS: Sequence[tuple[str, Callable[[Record], Any]]] = (
    ("NODE", lambda node: node["name"]),
    ("STATE", lambda node: "live" if node["live"] else "gone"),
    ("BUSY", lambda node: f"{node['busy']}/{node['slots']}"),
    ("CPUS", lambda node: node.get("cpus")),
    ("MEMORY", lambda node: f"{node['memory'] / 2**30:.1f} GiB" if "memory" in node else ""),
    ("GPUS", lambda node: ", ".join(node.get("gpus") or [])),
    ("PROCESSOR", lambda node: node.get("cpu")),
    ("PYTHON", lambda node: node.get("python")),
    ("SEEN", lambda node: when(node["seen"])),
    ("PROBLEM", lambda node: node.get("problem")),
)


@click.command()
@click.argument("name")
@click.option("--packages", is_flag=True, help="Also list what is installed there, with versions.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def show(name: str, packages: bool, as_json: bool) -> None:
    """Show endpoint NAME: its state, its nodes and their hardware."""
    with Client(patience=PATIENCE) as client:
        found = client.get_endpoint(name)
    if as_json:
        print_json(found)
        return
    queue = (
        ", ".join(f"{count} {state}" for state, count in found["queue"].items() if count) or "nothing waits"
    )
    click.echo(
        f"{found['name']}  {found['state']}  {found['slots_free']}/{found['slots_total']} slots free  {queue}"
    )
    if found["description"]:
        click.echo(found["description"])
    print_table(found["nodes"], COLUMNS, "No node has been heard of yet.")
    if packages:
        for package, version in found["packages"].items():
            click.echo(f"{package}=={version}")
