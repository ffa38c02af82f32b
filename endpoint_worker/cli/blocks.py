"""``umbel-endpoint blocks``: the batch jobs that the service has started for an elastic endpoint."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import click

from umbel.system.files import home_directory

from .register import ask, find_login


@click.command()
@click.argument("name")
def blocks(name: str) -> None:
    """Show the batch jobs of elastic endpoint NAME."""
    login = find_login(home_directory())
    found = ask(login, "GET", f"/v1/endpoints/{quote(name, safe='')}/blocks", None)
    click.echo(f"{found['status']}  {found['message']}".rstrip())
    if found["decision"]:
        click.echo(f"last decision: {found['decision']}")
    for block in found["blocks"]:
        click.echo(_line(block))
        if block["tail"]:
            click.echo("    " + block["tail"].strip().replace("\n", "\n    "))


def _line(block: dict[str, Any]) -> str:
    waited = "" if block["queue_wait"] is None else f"waited {block['queue_wait']:.0f} s"
    end = block["ended"] or time.time()
    work, idle = block["busy_slot_seconds"], block["idle_slot_seconds"]
    parts = [
        f"{block['job_id'] or '?':<12} {block['state']:<11} {block['busy']}/{block['slots']} busy",
        f"age {end - block['submitted']:.0f} s",
        waited,
        f"slot-seconds {work:.0f} busy, {idle:.0f} idle",
        ",".join(block["hosts"]),
        block["reason"],
    ]
    return "  ".join(part for part in parts if part)
