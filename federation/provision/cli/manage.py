"""``python -m federation provision add|show|pause|resume|remove``: manage elastic endpoints on the server."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from umbel.protocol.errors import UmbelError

from ...config.settings import load
from ...context import Federation, open_federation
from .. import api
from ..records import sites

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {}


def _command(name: str, prepare: Callable[[argparse.ArgumentParser], None]) -> Callable[[Any], Any]:
    def register(run: Callable[[Federation, argparse.Namespace], Any]) -> Any:
        def command(argv: Sequence[str]) -> int:
            parser = argparse.ArgumentParser(
                prog=f"python -m federation provision {name}", description=run.__doc__
            )
            parser.add_argument("--home", type=Path, help="directory of the service")
            parser.add_argument(
                "--user", default=os.environ.get("USER", "local"), help="owner of the endpoint"
            )
            parser.add_argument("name", help="name of the endpoint")
            prepare(parser)
            flags = parser.parse_args(argv)
            try:
                fed = open_federation(load(flags.home))
            except UmbelError as error:
                return _print_error(error)
            try:
                print(json.dumps(run(fed, flags), indent=1))
            except UmbelError as error:
                return _print_error(error)
            finally:
                fed.close()
            return 0

        COMMANDS[name] = command
        return run

    return register


def _print_error(error: UmbelError) -> int:
    print(f"umbel: {error.message}", file=sys.stderr)
    return 2


def _no_options(parser: argparse.ArgumentParser) -> None:
    """No further options."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--site", required=True, help="settings of the site as JSON")
    parser.add_argument("--policy", default="{}", help="policy as JSON")
    parser.add_argument(
        "--confirm-host-key", action="store_true", help="pin the host keys that the site presents now"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the job script and change nothing")


@_command("add", _add_options)
def add(fed: Federation, flags: argparse.Namespace) -> Any:
    """Create an elastic endpoint."""
    try:
        site, policy = json.loads(flags.site), json.loads(flags.policy)
    except ValueError as error:
        raise UmbelError(f"--site and --policy must be JSON: {error}") from None
    user = api.user_named(fed, flags.user)
    return api.add(fed, user, flags.name, site, policy, confirm=flags.confirm_host_key, dry_run=flags.dry_run)


@_command("show", _no_options)
def show(fed: Federation, flags: argparse.Namespace) -> Any:
    """Show an elastic endpoint and its blocks."""
    return api.show(fed, api.user_named(fed, flags.user), flags.name)


def _reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", default="by its owner", help="reason for the pause, shown in the status")


@_command("pause", _reason)
def pause(fed: Federation, flags: argparse.Namespace) -> Any:
    """Submit no blocks for an endpoint until it is resumed."""
    return sites.pause(fed, api.user_named(fed, flags.user), flags.name, flags.reason)


@_command("resume", _no_options)
def resume(fed: Federation, flags: argparse.Namespace) -> Any:
    """Submit blocks again."""
    return sites.resume(fed, api.user_named(fed, flags.user), flags.name)


@_command("remove", _no_options)
def remove(fed: Federation, flags: argparse.Namespace) -> Any:
    """Cancel an endpoint's blocks, delete its files on the site, and remove the site."""
    return api.remove(fed, api.user_named(fed, flags.user), flags.name)
