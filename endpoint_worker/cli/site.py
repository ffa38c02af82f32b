"""Commands of ``umbel-endpoint`` for the machine that an endpoint is on: check it, start with it."""

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
@click.option("--json", "as_json", is_flag=True, help="Tell programs: one JSON object.")
@click.option("--no-api", is_flag=True, help="Leave out the service's API; a worker needs the broker only.")
def check_command(name: str, as_json: bool, no_api: bool) -> None:
    """Find out what keeps endpoint NAME from working here, and what to do; exit code 1 if anything does."""
    directory = _existing(name)
    found = checks.check(directory, api=not no_api)
    if as_json:
        click.echo(checks.to_json(name, found))
    for finding in [] if as_json else found:
        mark = {True: "ok", False: "FAILED", None: "-"}[finding.ok]
        click.echo(f"{mark:<6}  {finding.name:<11}  {finding.said}")
        if finding.advice:
            click.echo(f"{'':<21}→ {finding.advice}")
    sys.exit(0 if checks.healthy(found) else 1)


@click.command("enable-on-boot")
@NAME
def enable_on_boot(name: str) -> None:
    """Have systemd start endpoint NAME with this machine, and again if it fails."""
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
        click.echo("systemd of this account did not do all of it. Give these commands where it runs:")
        for command in left:
            click.echo(f"    {command}")
    else:
        click.echo(f"Endpoint '{name}' starts with this machine")
    click.echo(f"Start it now with: systemctl --user start {systemd.unit_name(name)}")
    click.echo(f"Its log is shown by: journalctl --user --unit {systemd.unit_name(name)}")


@click.command("disable-on-boot")
@NAME
def disable_on_boot(name: str) -> None:
    """Undo enable-on-boot; a worker that runs goes on."""
    # by its name alone: the endpoint itself may be gone already
    EndpointDirectory(home_directory(), name)
    if systemd.disable(name):
        click.echo(f"Removed {systemd.unit_file(name)}")
    else:
        click.echo(
            f"Endpoint '{name}' does not start with this machine: there is no {systemd.unit_file(name)}"
        )


def _existing(name: str) -> EndpointDirectory:
    directory = EndpointDirectory(home_directory(), name)
    if not directory.exists():
        directory.credentials()  # says what is missing
    return directory
