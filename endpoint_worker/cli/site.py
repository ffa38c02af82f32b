"""Commands of ``umbel-endpoint`` for the endpoint's machine: check it, start the endpoint at boot."""

from __future__ import annotations

import sys

import click

from umbel.system.files import home_directory

from ..config import settings
from ..config.directory import EndpointDirectory
from . import daemon, systemd
from .doctor import checks

NAME = click.argument("name")


@click.command("check")
@NAME
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@click.option("--no-api", is_flag=True, help="Skip the service's API; a worker needs only the broker.")
def check_command(name: str, as_json: bool, no_api: bool) -> None:
    """Check everything that endpoint NAME needs here, and say what to do; exit code 1 if a check fails."""
    directory = _existing(name)
    found = checks.check(directory, api=not no_api)
    if as_json:
        click.echo(checks.to_json(name, found))
    for finding in [] if as_json else found:
        mark = {True: "ok", False: "FAILED", None: "-"}[finding.ok]
        mark = "warn" if finding.warning else mark
        click.echo(f"{mark:<6}  {finding.name:<11}  {finding.said}")
        if finding.advice:
            click.echo(f"{'':<21}→ {finding.advice}")
    sys.exit(0 if checks.healthy(found) else 1)


@click.command("enable-on-boot")
@NAME
def enable_on_boot(name: str) -> None:
    """Let systemd start endpoint NAME when this machine boots, and restart it after failures."""
    directory = _existing(name)
    chosen = settings.load(directory.settings_file, name)
    text = systemd.unit_text(
        directory,
        home_directory(),
        python_path=daemon.python_path(),
        stop_seconds=chosen.drain_seconds + 20.0,
    )
    left = systemd.enable(name, text)
    click.echo(f"Wrote {systemd.unit_file(name)}")
    if left:
        click.echo("The systemd user instance did not accept all commands. Run these where it is available:")
        for command in left:
            click.echo(f"    {command}")
    else:
        click.echo(f"Endpoint '{name}' starts when this machine boots")
    click.echo(f"Start it now with: systemctl --user start {systemd.unit_name(name)}")
    click.echo(f"Show its log with: journalctl --user --unit {systemd.unit_name(name)}")


@click.command("disable-on-boot")
@NAME
def disable_on_boot(name: str) -> None:
    """Undo enable-on-boot; a running worker continues."""
    # by name only: the endpoint itself may already be deleted
    EndpointDirectory(home_directory(), name)
    if systemd.disable(name):
        click.echo(f"Removed {systemd.unit_file(name)}")
    else:
        click.echo(f"Endpoint '{name}' is not enabled on boot: {systemd.unit_file(name)} does not exist")


def _existing(name: str) -> EndpointDirectory:
    directory = EndpointDirectory(home_directory(), name)
    if not directory.exists():
        directory.credentials()  # raises the error that describes what is missing
    return directory
