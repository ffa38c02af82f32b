"""``umbel flush``: submit the calls that earlier programs could not submit."""

from __future__ import annotations

import sys

import click

from ..api.account import find_account
from ..submit.spool import Spool
from .output import REFUSED, connect, json_option, print_json


@click.command()
@click.option(
    "--repeat", is_flag=True, help="Also submit calls of which it is unknown whether they run already."
)
@json_option
def flush(repeat: bool, as_json: bool) -> None:
    """Submit the calls that earlier programs could not submit before they ended.

    They are in UMBEL_HOME. Each call runs once, even if a request was interrupted; calls that may have been
    accepted more than 23 hours ago are submitted with --repeat only.
    """
    spool = Spool(find_account())
    with connect() as client:
        outcome = spool.send(client, repeat=repeat)
    if as_json:
        print_json(vars(outcome))
    else:
        click.echo(f"{outcome.submitted} calls submitted.")
        for count, meaning in (
            (outcome.rejected, f"rejected by the service; kept in {spool.folder}/*.rejected"),
            (outcome.foreign, "kept: they belong to another user, token or service; log in as that user"),
            (outcome.uncertain, "kept: they may have been accepted; see 'umbel tasks', then use --repeat"),
        ):
            if count:
                click.echo(f"{count} calls {meaning}.", err=True)
    sys.exit(REFUSED if outcome.rejected or outcome.uncertain else 0)
