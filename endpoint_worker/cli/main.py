"""The ``umbel-endpoint`` command: set up an endpoint on this machine, start and stop its worker."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from umbel.protocol.errors import ServiceError, UmbelError
from umbel.protocol.version import __version__
from umbel.system.files import home_directory

from ..broker import routes
from ..config import logs as log_files
from ..config import settings
from ..config.directory import EndpointFolder, FolderError, configured, node_name
from ..node.node import Node
from ..node.shutdown import Terms, terms_options
from . import blocks, daemon
from . import register as registration
from . import relay, site, systemd

NAME = click.argument("name")
NODE = click.option("--node", metavar="NODE", help="Name of this node (default: the host's name).")


class Commands(click.Group):
    """Turns what went wrong into one sentence and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except UmbelError as error:
            click.echo(f"umbel-endpoint: {error.message}", err=True)
        except OSError as error:
            click.echo(f"umbel-endpoint: {error.filename or ''}: {error.strerror or error}", err=True)
        ctx.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="umbel-endpoint")
def main() -> None:
    """Run functions on this machine for an Umbel service."""


@main.command()
@NAME
@click.option(
    "--slots", type=click.IntRange(1), help="Calls that run at once (default: number of processors)."
)
@click.option("--description", default="", help="What people shall know of this endpoint.")
@click.option("--broker-address", metavar="HOST:PORT", help="Where this machine reaches the broker.")
def configure(name: str, slots: int | None, description: str, broker_address: str | None) -> None:
    """Register endpoint NAME with the service and write its folder."""
    home = home_directory()
    folder = EndpointFolder(home, name)
    text = settings.template(name, slots=slots, broker_address=broker_address)
    registration.register(folder, registration.find_login(home), text, description)
    click.echo(f"Endpoint '{name}' is registered; its settings are in {folder.settings_file}")
    click.echo(f"Start it with: umbel-endpoint start {name}")


@main.command()
@NAME
@click.option("--detach", is_flag=True, help="Run in the background; see 'umbel-endpoint logs'.")
@click.option("--slots", type=click.IntRange(1), help="Calls that run at once.")
@click.option("--broker-address", metavar="HOST:PORT", help="Where this machine reaches the broker.")
@click.option("--log-file", type=click.Path(path_type=Path), hidden=True)
@NODE
@terms_options
def start(
    name: str,
    detach: bool,
    slots: int | None,
    broker_address: str | None,
    log_file: Path | None,
    node: str | None,
    terms: Terms,
) -> None:
    """Run a worker of endpoint NAME until it is stopped."""
    folder = EndpointFolder(home_directory(), name)
    chosen = settings.load(folder.settings_file, name, slots=slots, broker_address=broker_address)
    folder.credentials()
    place = node_name(terms.node_name(node))
    if detach:
        _start_detached(folder, place, slots, broker_address)
        return
    with folder.lock(place):
        log_files.set_up_logging(chosen.log_level, log_file, chosen.log_format)
        chosen, way = _way(folder, chosen, terms)
        running = Node(folder, chosen, place, way)
        # the runners' Pythons start while this one loads Celery, which takes some tenths of a second
        running.hire()
        from ..node.celery_app import serve

        code = serve(running, terms)
    if terms.block:
        folder.forget(place)
    sys.exit(code)


def _way(folder: EndpointFolder, chosen: settings.Settings, terms: Terms) -> tuple[settings.Settings, str]:
    """The settings with the way to the broker that works, and its name; where there is none to choose, ""."""
    if not terms.ways:
        return chosen, ""
    way = routes.choose(folder.credentials().broker_url, terms.ways)
    return replace(chosen, broker_address=way.address), str(way)


def _start_detached(folder: EndpointFolder, node: str, slots: int | None, broker_address: str | None) -> None:
    running = folder.running().get(node)
    if running:
        raise FolderError(f"endpoint '{folder.name}' already runs here: process {running}")
    log = daemon.log_file(folder, node)
    arguments = ["start", folder.name, "--node", node, "--log-file", str(log)]
    if slots is not None:
        arguments += ["--slots", str(slots)]
    if broker_address is not None:
        arguments += ["--broker-address", broker_address]
    pid = daemon.detach(folder, node, arguments)
    click.echo(f"Endpoint '{folder.name}' runs as process {pid}; its log is {log}")


@main.command()
@NAME
@NODE
def stop(name: str, node: str | None) -> None:
    """Stop the workers of endpoint NAME on this machine; running calls may finish (drain_seconds)."""
    if not _stop(_existing(name), node):
        click.echo(f"Endpoint '{name}' does not run here")


@main.command()
@NAME
@NODE
def restart(name: str, node: str | None) -> None:
    """Stop the worker of endpoint NAME, if it runs, and start it in the background."""
    folder = _existing(name)
    settings.load(folder.settings_file, name)
    _stop(folder, node)
    _start_detached(folder, node_name(node), None, None)


@main.command()
@NAME
def status(name: str) -> None:
    """Tell whether endpoint NAME runs on this machine; exit code 3 if not."""
    folder = _existing(name)
    credentials = folder.credentials()
    click.echo(f"endpoint  {name}\nid        {credentials.endpoint_id}\nservice   {credentials.api_url}")
    click.echo(f"folder    {folder.path}")
    spooled = sum(1 for _ in folder.spool.glob("*/*.report"))
    if spooled:
        click.echo(f"spool     {spooled} reports wait for the broker")
    running = folder.running()
    for node, pid in running.items():
        click.echo(f"running   node {node}, process {pid}")
    if not running:
        click.echo("running   no")
        sys.exit(3)


@main.command("list")
def list_() -> None:
    """List the endpoints that are configured here."""
    found = configured(home_directory())
    if not found:
        click.echo(
            f"There are no endpoints in {home_directory()}; make one with 'umbel-endpoint configure NAME'"
        )
        return
    width = max(len(folder.name) for folder in found)
    for folder in found:
        running = ", ".join(f"{node} ({pid})" for node, pid in folder.running().items())
        click.echo(f"{folder.name:<{width}}  {'running: ' + running if running else 'stopped'}")


@main.command()
@NAME
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--local", is_flag=True, help="Delete the folder only; the service keeps the endpoint.")
def delete(name: str, yes: bool, local: bool) -> None:
    """Delete endpoint NAME, here and at the service."""
    home = home_directory()
    folder = _existing(name)
    if folder.running():
        raise FolderError(f"endpoint '{name}' runs: stop it first with 'umbel-endpoint stop {name}'")
    if not yes:
        click.confirm(f"Delete endpoint '{name}' and {folder.path}?", abort=True)
    if not local:
        try:
            registration.unregister(folder.credentials().endpoint_id, registration.find_login(home))
        except ServiceError as error:
            raise FolderError(
                f"the service did not delete endpoint '{name}' ({error.message}): "
                "try again, or delete only its folder with --local"
            ) from None
    systemd.disable(name)
    folder.remove()
    click.echo(f"Endpoint '{name}' is deleted")


@main.command()
@NAME
@click.option("--lines", "-n", default=50, show_default=True, help="How many lines to show.")
@click.option("--follow", "-f", is_flag=True, help="Go on showing what is logged.")
@NODE
def logs(name: str, lines: int, follow: bool, node: str | None) -> None:
    """Show the log of endpoint NAME's worker (of one started with --detach)."""
    file = daemon.log_file(_existing(name), node_name(node))
    if not file.exists():
        raise FolderError(
            f"there is no {file}: only workers started with --detach log to a file; the log of one that "
            f"systemd started is shown by 'journalctl --user --unit {systemd.unit_name(name)}'"
        )
    for line in log_files.read(file, lines, follow=follow):
        click.echo(line, nl=False)


for _command in (site.check_command, site.enable_on_boot, site.disable_on_boot):
    main.add_command(_command)
main.add_command(blocks.blocks)
main.add_command(relay.relay)


def _existing(name: str) -> EndpointFolder:
    folder = EndpointFolder(home_directory(), name)
    folder.credentials()
    return folder


def _stop(folder: EndpointFolder, node: str | None) -> bool:
    """Stop a node, or all nodes of this machine; tell whether any ran."""
    chosen = settings.load(folder.settings_file, folder.name)
    running = folder.running()
    if node is not None:
        running = {name: pid for name, pid in running.items() if name == node_name(node)}
    for place, pid in running.items():
        if not daemon.stop(pid, chosen.drain_seconds + 20.0):
            raise FolderError(f"process {pid} (node {place}) does not stop: end it with 'kill -9 {pid}'")
        click.echo(f"Stopped node {place} (process {pid})")
    return bool(running)
