"""``umbel endpoint``: the nodes of an endpoint, and elastic endpoints, whose workers run as batch jobs."""

# One concept: the subcommands of ``umbel endpoint``, each a request and its display

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from ..api.client import Client
from ..protocol.errors import NotFound
from .output import Record, connect, json_option, print_json, print_table, suspension, when

NODE_COLUMNS: Sequence[tuple[str, Callable[[Record], Any]]] = (
    ("NODE", lambda node: node["name"]),
    ("STATE", lambda node: "live" if node["live"] else "gone"),
    ("BUSY", lambda node: f"{node['busy']}/{node['slots']}"),
    ("CPUS", lambda node: node.get("cpus")),
    ("MEMORY", lambda node: f"{node['memory'] / 2**30:.1f} GiB" if "memory" in node else ""),
    ("GPUS", lambda node: ", ".join(node.get("gpus") or [])),
    ("PROCESSOR", lambda node: node.get("cpu")),
    ("PYTHON", lambda node: node.get("python")),
    ("SEEN", lambda node: when(node["seen"])),
    ("CLOCK", lambda node: _clock(node.get("clock_ahead"))),
    ("PROBLEM", lambda node: node.get("problem")),
)
#: Smaller differences between the clocks of a node and the service are not shown, seconds.
NOTABLE_DIFFERENCE = 2.0
BLOCK_COLUMNS: Sequence[tuple[str, Callable[[Record], Any]]] = (
    ("JOB", lambda block: block["job_id"] or "?"),
    ("STATE", lambda block: block["state"]),
    ("NODES", lambda block: block["nodes"]),
    ("BUSY", lambda block: f"{block['busy']}/{block['slots']}"),
    ("WAITED", lambda block: "" if block["queue_wait"] is None else f"{block['queue_wait']:.0f} s"),
    ("AGE", lambda block: f"{block['age']:.0f} s"),
    ("BUSY SLOT-S", lambda block: f"{block['busy_slot_seconds']:.0f}"),
    ("IDLE SLOT-S", lambda block: f"{block['idle_slot_seconds']:.0f}"),
    ("NODE-H", lambda block: "" if block["node_hours"] is None else f"{block['node_hours']:.2f}"),
    ("SUBMITTED", lambda block: when(block["submitted"])),
    ("WHERE", lambda block: ",".join(block["hosts"])[:30]),
    ("REASON", lambda block: block["reason"][:40]),
)
SITE_COLUMNS: Sequence[tuple[str, Callable[[Record], Any]]] = (
    ("NAME", lambda site: site["name"]),
    ("STATUS", lambda site: site["status"]),
    ("SCHEDULER", lambda site: site["scheduler"]),
    ("ADDRESS", lambda site: site["address"]),
    ("MESSAGE", lambda site: site["message"][:80]),
)
SCHEDULERS = ("slurm", "gridengine", "pbs", "lsf", "htcondor", "processes", "hosts")


def _clock(ahead: Any) -> str:
    """Return what is shown of a node's clock: how far it is ahead (+) or behind (-)."""
    if not isinstance(ahead, (int, float)) or abs(ahead) < NOTABLE_DIFFERENCE:
        return ""
    return f"{ahead:+.0f} s"


@click.group()
def endpoint() -> None:
    """Show endpoints; manage elastic endpoints, whose batch jobs follow the queue."""


@endpoint.command()
@click.argument("name")
@click.option("--packages", is_flag=True, help="Also list the installed packages with their versions.")
@json_option
def show(name: str, packages: bool, as_json: bool) -> None:
    """Show endpoint NAME: its state, its nodes and their hardware."""
    with connect() as client:
        found = client.get_endpoint(name)
    if as_json:
        print_json(found)
        return
    counts = [f"{count} {state}" for state, count in found["queue"].items() if count]
    slots = f"{found['slots_free']}/{found['slots_total']} slots free"
    click.echo(f"{found['name']}  {found['state']}  {slots}  {', '.join(counts) or 'no unfinished tasks'}")
    if found["description"]:
        click.echo(found["description"])
    if suspension(found):
        click.echo(suspension(found))
    print_table(found["nodes"], NODE_COLUMNS, "No node has reported yet.")
    if packages:
        for package, version in found["packages"].items():
            click.echo(f"{package}=={version}")


@endpoint.command()
@click.argument("name")
@click.option(
    "--hours",
    type=click.FloatRange(0.01, 720),
    default=1.0,
    show_default=True,
    help="How long the code is valid, hours.",
)
def code(name: str, hours: float) -> None:
    """Print a one-time code with which another machine can register endpoint NAME.

    On that machine: UMBEL_API_URL=... UMBEL_CODE=... umbel-endpoint configure NAME
    """
    with connect() as client:
        click.echo(client.endpoint_code(name, hours * 3600.0)["code"])


@endpoint.command()
@click.argument("address", metavar="ssh://USER@HOST[:PORT]")
@click.option("--name", required=True, help="Name of the endpoint.")
@click.option("--scheduler", required=True, type=click.Choice(SCHEDULERS), help="The site's batch system.")
@click.option(
    "--set", "rules", multiple=True, metavar="RULE=NUMBER", help="A rule, such as max_blocks=10; repeatable."
)
@click.option(
    "--site",
    "settings",
    multiple=True,
    metavar="KEY=TEXT",
    help="A setting, such as network=tunnel; repeatable.",
)
@click.option(
    "--directive", "directives", multiple=True, help="A directive for the batch system; repeatable."
)
@click.option(
    "--launcher",
    multiple=True,
    metavar="WORD",
    help="A word of the command that starts the worker on each node; repeatable.",
)
@click.option(
    "--jump", "jumps", multiple=True, metavar="ADDRESS", help="A jump host; repeatable, in connection order."
)
@click.option(
    "--host", "hosts", multiple=True, metavar="ADDRESS", help="A machine for --scheduler hosts; repeatable."
)
@click.option(
    "--host-key", "host_keys", multiple=True, help="A known host key; repeatable, jump hosts first."
)
@click.option(
    "--setup", multiple=True, help="A command before the worker, such as 'module load gcc'; repeatable."
)
@click.option("--yes", is_flag=True, help="Trust the host key that the site presents.")
@click.option("--dry-run", is_flag=True, help="Print the job script and create nothing.")
def add(
    address: str,
    name: str,
    scheduler: str,
    rules: tuple[str, ...],
    settings: tuple[str, ...],
    directives: tuple[str, ...],
    setup: tuple[str, ...],
    launcher: tuple[str, ...],
    jumps: tuple[str, ...],
    hosts: tuple[str, ...],
    host_keys: tuple[str, ...],
    yes: bool,
    dry_run: bool,
) -> None:
    """Create an elastic endpoint on the site at ADDRESS."""
    site: Record = {"address": address, "scheduler": scheduler, **dict(map(_pair, settings))}
    lists = {"directives": directives, "setup": setup, "launcher": launcher, "jumps": jumps, "hosts": hosts}
    site.update({key: list(texts) for key, texts in {**lists, "host_keys": host_keys}.items() if texts})
    policy = {rule: _number(value) for rule, value in map(_pair, rules)}
    with connect() as client:
        if dry_run:
            click.echo(client.preview_elastic_endpoint(name, site, policy), nl=False)
            return
        if not host_keys:
            keys = client.show_host_keys(name, site, policy)
            for key in keys:
                click.echo(f"The site presents the host key {key['fingerprint']}")
            if not yes:
                click.confirm("Is this the key that the site publishes?", abort=True)
            site["host_keys"] = [key["key"] for key in keys]
        made = client.add_elastic_endpoint(name, site, policy)
    click.echo(f"Endpoint '{name}' is created. Append this line to ~/.ssh/authorized_keys on the site:")
    click.echo(made["authorized_keys"])


@endpoint.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List your elastic endpoints, and deleted ones whose sites are still being cleaned."""
    with connect() as client:
        found = client.sites()
    if as_json:
        print_json(found)
        return
    print_table(found, SITE_COLUMNS, "There are no elastic endpoints: create one with 'umbel endpoint add'.")


@endpoint.command()
@click.argument("name")
@json_option
@click.option("--decisions", default=10, show_default=True, help="Number of decisions to show.")
def status(name: str, as_json: bool, decisions: int) -> None:
    """Show elastic endpoint NAME: its site, network, budget and last decisions."""
    with connect() as client:
        found = client.get_blocks(name)
        described = {} if as_json else _described(client, name)
    if as_json:
        print_json({key: value for key, value in found.items() if key != "blocks"})
        return
    click.echo(f"status     {found['status']}  {found['message']}".rstrip())
    if suspension(described):
        click.echo(f"broker     {suspension(described)}")
    click.echo(f"network    {_network(found['network'])}")
    click.echo(f"budget     {_budget(found)}")
    for node, until in found["bad_nodes"].items():
        click.echo(f"avoided    {node} until {when(until)}")
    for made in found["history"][:decisions]:
        click.echo(f"{when(made['time'])}  {made['decision']}")


def _described(client: Client, name: str) -> Record:
    """Return an endpoint's description; empty if it has been deleted while its site is being cleaned."""
    try:
        return client.get_endpoint(name)
    except NotFound:
        return {}


def _network(network: Record) -> str:
    if not network["way"]:
        return f"{network['wanted']}: no worker has connected yet"
    return f"{network['way']} {network['address']} (setting: {network['wanted']})"


def _budget(found: Record) -> str:
    used, policy = found["node_hours"], found["policy"]
    words = f"{used['day']:.2f} node-hours today"
    words += f" of {policy['budget_day']:g}" if policy["budget_day"] else ""
    words += f", {used['total']:.2f} in total" + (
        f" of {policy['budget_total']:g}" if policy["budget_total"] else ""
    )
    return words + f", {used['reserved']:.2f} reserved by active blocks"


@endpoint.command()
@click.argument("name")
@json_option
@click.option("--output", is_flag=True, help="Show the end of the output of failed jobs.")
def blocks(name: str, as_json: bool, output: bool) -> None:
    """Show the blocks of elastic endpoint NAME."""
    with connect() as client:
        found = client.get_blocks(name)
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['status']}  {found['message']}\nlast decision: {found['decision']}")
    click.echo(_budget(found))
    print_table(found["blocks"], BLOCK_COLUMNS, "There are no blocks.")
    for block in found["blocks"] if output else ():
        if block["tail"]:
            click.echo(f"\n{block['job_id']}:\n{block['tail'].strip()}")


@endpoint.command()
@click.argument("name")
@click.option("--reason", default="by its owner", show_default=True, help="Reason shown in the status.")
def pause(name: str, reason: str) -> None:
    """Stop submitting blocks for elastic endpoint NAME. Running blocks continue."""
    with connect() as client:
        client.pause_endpoint(name, reason)
    click.echo(f"Endpoint '{name}' is paused. Resume it with: umbel endpoint resume {name}")


@endpoint.command()
@click.argument("name")
def resume(name: str) -> None:
    """Submit blocks for elastic endpoint NAME again."""
    with connect() as client:
        client.resume_endpoint(name)
    click.echo(f"Endpoint '{name}' is resumed.")


@endpoint.command()
@click.argument("name")
@click.argument("rules", nargs=-1, required=True, metavar="RULE=NUMBER...")
def policy(name: str, rules: tuple[str, ...]) -> None:
    """Change rules of elastic endpoint NAME, such as max_blocks=10."""
    changes = {rule: _number(value) for rule, value in map(_pair, rules)}
    with connect() as client:
        now = client.change_policy(name, **changes)
    for rule in changes:
        click.echo(f"{rule} = {now[rule]:g}")


@endpoint.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def remove(name: str, yes: bool) -> None:
    """Delete elastic endpoint NAME, cancel its blocks and clean its site."""
    if not yes:
        click.confirm(f"Delete endpoint '{name}' and all of its jobs and files on the site?", abort=True)
    with connect() as client:
        client.delete_endpoint(name)
    click.echo(f"Endpoint '{name}' is deleted. Until its site is clean, 'umbel endpoint list' shows it.")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"'{text}' must have the form NAME=VALUE")
    return name, value


def _number(text: str) -> float:
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        raise click.UsageError(f"'{text}' is not a number") from None
