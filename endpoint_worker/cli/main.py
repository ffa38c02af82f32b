"""The ``umbel-endpoint`` command: set up an endpoint on this machine, start and stop its worker."""

from __future__ import annotations

import logging
import os
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
from ..config.directory import DirectoryError, EndpointDirectory, configured
from ..config.identity import default_node_name, node_name
from ..node.node import Node
from ..node.shutdown import ShutdownConditions, shutdown_options
from . import blocks, daemon
from . import register as registration
from . import relay, site, systemd

log = logging.getLogger(__name__)

NAME = click.argument("name")
NODE = click.option(
    "--node", metavar="NODE", help="Name of this node (default: the host's name and a suffix)."
)


class Commands(click.Group):
    """Reports an error as one sentence with exit code 2."""

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
    "--slots", type=click.IntRange(1), help="Number of calls to run at once (default: number of processors)."
)
@click.option("--description", default="", help="Description shown to users of this endpoint.")
@click.option(
    "--broker-address", metavar="HOST:PORT", help="Address of the broker as seen from this machine."
)
def configure(name: str, slots: int | None, description: str, broker_address: str | None) -> None:
    """Register endpoint NAME with the service and create its directory."""
    home = home_directory()
    directory = EndpointDirectory(home, name)
    text = settings.template(name, slots=slots, broker_address=broker_address)
    registration.register(directory, registration.find_login(home), text, description)
    click.echo(f"Endpoint '{name}' is registered. Its settings are in {directory.settings_file}")
    click.echo(f"Start it with: umbel-endpoint start {name}")


@main.command()
@NAME
@click.option(
    "--detach", is_flag=True, help="Run in the background; show its log with 'umbel-endpoint logs'."
)
@click.option("--slots", type=click.IntRange(1), help="Number of calls to run at once.")
@click.option(
    "--broker-address", metavar="HOST:PORT", help="Address of the broker as seen from this machine."
)
@click.option("--log-file", type=click.Path(path_type=Path), hidden=True)
@click.option("--keep", is_flag=True, hidden=True)
@click.option("--lock", type=int, hidden=True)
@click.option("--keeper", type=int, default=0, hidden=True)
@NODE
@shutdown_options
def start(
    name: str,
    detach: bool,
    slots: int | None,
    broker_address: str | None,
    log_file: Path | None,
    keep: bool,
    lock: int | None,
    keeper: int,
    node: str | None,
    conditions: ShutdownConditions,
) -> None:
    """Run a worker of endpoint NAME until it is stopped."""
    directory = EndpointDirectory(home_directory(), name)
    chosen = settings.load(directory.settings_file, name, slots=slots, broker_address=broker_address)
    directory.credentials()
    node_id = _node_id(directory, node, conditions.block)
    if detach:
        _start_detached(directory, node_id, slots, broker_address)
        return
    if keep:
        arguments = _worker_arguments(name, node_id, log_file, slots, broker_address)
        sys.exit(daemon.Keeper(directory, node_id, arguments, log_file or Path(os.devnull)).run())
    with directory.lock(node_id, inherited=lock, keeper=keeper):
        log_files.set_up_logging(chosen.log_level, log_file, chosen.log_format)
        chosen, route = _choose_route(directory, chosen, conditions)
        code = _serve(Node(directory, chosen, node_id, route), conditions)
    if conditions.block:
        directory.forget(node_id)
    sys.exit(code)


def _node_id(directory: EndpointDirectory, node: str | None, block: str = "") -> str:
    return node_name(node) if node else default_node_name(directory.path, block)


def _serve(running: Node, conditions: ShutdownConditions) -> int:
    """Run a worker; return its exit status: 1 for an error that a restart may fix."""
    try:
        # the runners start while this process imports Celery, which takes some tenths of a second
        running.start_runners()
        from ..node.celery_app import serve

        return serve(running, conditions)
    except OSError:
        log.exception("the worker ends")
        return 1


def _choose_route(
    directory: EndpointDirectory, chosen: settings.Settings, conditions: ShutdownConditions
) -> tuple[settings.Settings, str]:
    """Return the settings with a working route to the broker, and its name ("" if there is no choice)."""
    if not conditions.routes:
        return chosen, ""
    route = routes.choose(directory.credentials().broker_url, conditions.routes)
    return replace(chosen, broker_address=route.address), str(route)


def _start_detached(
    directory: EndpointDirectory, node: str, slots: int | None, broker_address: str | None
) -> None:
    running = directory.running().get(node)
    if running:
        raise DirectoryError(f"endpoint '{directory.name}' is already running: process {running}")
    log_file = daemon.log_file(directory, node)
    arguments = _worker_arguments(directory.name, node, log_file, slots, broker_address)
    pid = daemon.detach(directory, node, [*arguments, "--keep"])
    click.echo(f"Endpoint '{directory.name}' is running as process {pid}; its log is {log_file}")


def _worker_arguments(
    name: str, node: str, log_file: Path | None, slots: int | None, broker_address: str | None
) -> list[str]:
    arguments = ["start", name, "--node", node]
    if log_file is not None:
        arguments += ["--log-file", str(log_file)]
    if slots is not None:
        arguments += ["--slots", str(slots)]
    if broker_address is not None:
        arguments += ["--broker-address", broker_address]
    return arguments


@main.command()
@NAME
@NODE
def stop(name: str, node: str | None) -> None:
    """Stop the workers of endpoint NAME on this machine; running calls may finish (drain_seconds)."""
    if not _stop(_existing(name), node):
        click.echo(f"Endpoint '{name}' is not running on this machine")


@main.command()
@NAME
@NODE
def restart(name: str, node: str | None) -> None:
    """Stop the worker of endpoint NAME if it is running, and start it in the background."""
    directory = _existing(name)
    settings.load(directory.settings_file, name)
    _stop(directory, node)
    _start_detached(directory, _node_id(directory, node), None, None)


@main.command()
@NAME
def status(name: str) -> None:
    """Show whether endpoint NAME is running on this machine; exit code 3 if not."""
    directory = _existing(name)
    credentials = directory.credentials()
    click.echo(f"endpoint  {name}\nid        {credentials.endpoint_id}\nservice   {credentials.api_url}")
    click.echo(f"directory {directory.path}")
    spooled = sum(1 for _ in directory.spool.glob("*/*.report"))
    if spooled:
        click.echo(f"spool     {spooled} reports waiting for the broker")
    running = directory.running()
    for node, pid in running.items():
        click.echo(f"running   node {node}, process {pid}")
    if not running:
        click.echo("running   no")
        sys.exit(3)


@main.command("list")
def list_() -> None:
    """List the endpoints that are configured on this machine."""
    found = configured(home_directory())
    if not found:
        click.echo(f"No endpoints in {home_directory()}; create one with 'umbel-endpoint configure NAME'")
        return
    width = max(len(directory.name) for directory in found)
    for directory in found:
        running = ", ".join(f"{node} ({pid})" for node, pid in directory.running().items())
        click.echo(f"{directory.name:<{width}}  {'running: ' + running if running else 'stopped'}")


@main.command()
@NAME
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "--local", is_flag=True, help="Delete the directory only; the endpoint stays registered with the service."
)
def delete(name: str, yes: bool, local: bool) -> None:
    """Delete endpoint NAME, on this machine and at the service."""
    home = home_directory()
    directory = _existing(name)
    if directory.running():
        raise DirectoryError(f"endpoint '{name}' is running: stop it first with 'umbel-endpoint stop {name}'")
    if not yes:
        click.confirm(f"Delete endpoint '{name}' and {directory.path}?", abort=True)
    if not local:
        try:
            registration.unregister(directory.credentials().endpoint_id, registration.find_login(home))
        except ServiceError as error:
            raise DirectoryError(
                f"the service did not delete endpoint '{name}' ({error.message}): "
                "try again, or delete only its directory with --local"
            ) from None
    systemd.disable(name)
    directory.remove()
    click.echo(f"Endpoint '{name}' is deleted")


@main.command()
@NAME
@click.option("--lines", "-n", default=50, show_default=True, help="Number of lines to show.")
@click.option("--follow", "-f", is_flag=True, help="Keep showing new lines.")
@NODE
def logs(name: str, lines: int, follow: bool, node: str | None) -> None:
    """Show the log of endpoint NAME's worker (if it was started with --detach)."""
    file = daemon.newest_log(_existing(name), node_name(node))
    if file is None:
        raise DirectoryError(
            f"endpoint '{name}' has no log file of node {node_name(node)}: only workers started with "
            "--detach log to a file; for a worker started by systemd, use "
            f"'journalctl --user --unit {systemd.unit_name(name)}'"
        )
    for line in log_files.read(file, lines, follow=follow):
        click.echo(line, nl=False)


for _command in (site.check_command, site.enable_on_boot, site.disable_on_boot):
    main.add_command(_command)
main.add_command(blocks.blocks)
main.add_command(relay.relay)


def _existing(name: str) -> EndpointDirectory:
    directory = EndpointDirectory(home_directory(), name)
    directory.credentials()
    return directory


def _stop(directory: EndpointDirectory, node: str | None) -> bool:
    """Stop one node, or all nodes of this machine; return whether any was running."""
    chosen = settings.load(directory.settings_file, directory.name)
    running = directory.running()
    if node is not None:
        running = {name: pid for name, pid in running.items() if name == node_name(node)}
    for node_id, pid in running.items():
        if not daemon.stop(directory, node_id, pid, chosen.drain_seconds + 20.0):
            raise DirectoryError(
                f"process {pid} (node {node_id}) does not stop: kill it with 'kill -9 {pid}'"
            )
        click.echo(f"Stopped node {node_id} (process {pid})")
    return bool(running)
