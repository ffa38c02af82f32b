"""Install an endpoint on a site, and remove it: virtual environment, configuration, credentials.

On the site, in ``folder`` (default ``~/.umbel``): ``env-<version>-<digest>`` (the environment),
``env-<version>-<digest>.wheels`` (its wheels), ``endpoints/<name>`` (as created by ``umbel-endpoint``),
``blocks/<name>`` (scripts and output of jobs).
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import secrets
from pathlib import Path

from sqlalchemy import update

from umbel.protocol.envelope import Signer, new_private_key
from umbel.protocol.version import __version__

from ...context import Federation
from ...db.tables import endpoints
from ...registry import broker_accounts
from ..connection.shell import Shell, SiteError
from .machine import Machine

log = logging.getLogger(__name__)

#: Time limit of an installation, seconds; shared file systems may be slow.
INSTALL_TIMEOUT = 900.0
_WHEEL = re.compile(r"[A-Za-z0-9_.+-]+\.whl\Z")
_VERSION = "import sys; print('%d.%d' % sys.version_info[:2]); sys.exit(sys.version_info < (3, 10))"


def wheels(folder: Path) -> list[Path]:
    """Return the wheels to install on sites. Raises SiteError if Umbel's own wheel is missing."""
    found = sorted(file for file in folder.glob("*.whl") if _WHEEL.match(file.name))
    if not any(file.name.startswith("umbel-") for file in found):
        raise SiteError(
            f"no wheel of Umbel in {folder}: create it with "
            f"'python -m federation provision wheelhouse {folder}'"
        )
    return found


def environment(machine: Machine, files: list[Path]) -> str:
    """Return the directory of the environment for these wheels."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return f"{machine.folder}/env-{__version__}-{digest.hexdigest()[:8]}"


def install(machine: Machine, wheelhouse: Path) -> str:
    """Create the environment if it is missing; return its directory. Raises SiteError, Unreachable."""
    files = wheels(wheelhouse)
    env = environment(machine, files)
    for shell in machine.shells():
        _install(machine, shell, files, env)
    return env


def _install(machine: Machine, shell: Shell, files: list[Path], env: str) -> None:
    python = machine.site.settings.python
    version = shell.run([python, "-c", _VERSION])
    if version.code != 0:
        raise SiteError(f"'{python}' on the site must be Python 3.10 or newer: {version.message}")
    check = [f"{env}/bin/python", "-m", "endpoint_worker", "--version"]
    if shell.run(check, timeout=120).code == 0:
        return
    log.info("%s: installing %d wheels into %s", machine.site.settings.address, len(files), env)
    for file in files:
        shell.write(f"{env}.wheels/{file.name}", file.read_bytes(), 0o600)
    # pip runs from its wheel, because many sites have a Python without ensurepip
    made = shell.run([python, "-m", "venv", "--without-pip", "--clear", env], timeout=INSTALL_TIMEOUT)
    if made.code != 0:
        raise SiteError(f"cannot create the virtual environment {env}: {made.message}")
    pip = next((f"{env}.wheels/{file.name}/pip" for file in files if file.name.startswith("pip-")), "")
    if not pip:
        raise SiteError(f"no wheel of pip among the {len(files)} wheels for sites")
    words = [f"{env}/bin/python", pip, "install", "--quiet", "--no-index", "--find-links", f"{env}.wheels"]
    done = shell.run([*words, "umbel[endpoint]"], timeout=INSTALL_TIMEOUT)
    if done.code == 0:
        done = shell.run(check, timeout=120)
    if done.code != 0:
        raise SiteError(f"cannot install Umbel in {env}: {done.message}")


def install_credentials(fed: Federation, machine: Machine) -> None:
    """Create a signing key and a broker account for the endpoint, and write both to the site (mode 0600).

    The service stores neither the private key nor the password. Raises SiteError, Unreachable, BrokerError.
    """
    site = machine.site
    key, password = new_private_key(), secrets.token_urlsafe(32)
    folder = f"{machine.folder}/endpoints/{site.endpoint_name}"
    record = {
        "endpoint_id": site.endpoint_id,
        "name": site.endpoint_name,
        "api_url": "",
        "broker_url": broker_accounts.credentials_url(fed, site.endpoint_id, password),
        "service_key": base64.b64encode(fed.signer.public_key).decode(),
    }
    for shell in machine.shells():
        shell.write(f"{folder}/signing.key", key)
    digest = hashlib.sha256(password.encode()).hexdigest()
    values = {"public_key": Signer(key).public_key, "broker_sha256": digest}
    with fed.database.write() as connection:
        connection.execute(update(endpoints).where(endpoints.c.no == site.endpoint_no).values(**values))
    broker_accounts.add_endpoint_user(fed, site.endpoint_id, digest)
    settings = f"# Written by the provisioner of the service.\nslots = {site.policy.slots_per_node}\n"
    for shell in machine.shells():
        shell.write(f"{folder}/endpoint.toml", settings.encode())
        shell.write(f"{folder}/credentials.json", (json.dumps(record, indent=1) + "\n").encode())


def has_credentials(machine: Machine) -> bool:
    """Whether the site has the endpoint's credentials file."""
    file = f"{machine.folder}/endpoints/{machine.site.endpoint_name}/credentials.json"
    return all(shell.run(["test", "-s", file]).code == 0 for shell in machine.shells())


def remove(machine: Machine) -> None:
    """Delete all files of this endpoint on the site, and unused environments. Raises SiteError."""
    folder, name = machine.folder, machine.site.endpoint_name
    script = (
        'cd -- "$1" 2>/dev/null || exit 0;'
        " for umbel in env-*/bin/umbel-endpoint; do"
        '  [ -x "$umbel" ] && UMBEL_HOME="$1" "$umbel" relay "$2" --stop >/dev/null 2>&1; break; done;'
        ' rm -rf -- "endpoints/$2" "blocks/$2";'
        " rmdir endpoints blocks 2>/dev/null;"
        ' [ -d endpoints ] || rm -rf -- env-*; cd / && rmdir -- "$1" 2>/dev/null; exit 0'
    )
    for shell in machine.shells():
        done = shell.run(["sh", "-c", script, "sh", folder, name], timeout=INSTALL_TIMEOUT)
        if done.code != 0:
            raise SiteError(f"cannot remove {folder}: {done.message}")
