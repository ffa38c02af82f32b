"""From a bare account to a working endpoint: virtual environment, configuration, credentials; and back.

On the site, below ``folder`` (default ``~/.umbel``): ``env-<version>-<digest>`` (the environment),
``wheels`` (what it was made of), ``endpoints/<name>`` (as ``umbel-endpoint`` makes it), ``blocks/<name>``.
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

#: Seconds that installing on a slow shared file system may take.
INSTALL_TIMEOUT = 900.0
_WHEEL = re.compile(r"[A-Za-z0-9_.+-]+\.whl\Z")
_VERSION = "import sys; print('%d.%d' % sys.version_info[:2]); sys.exit(sys.version_info < (3, 10))"


def wheels(folder: Path) -> list[Path]:
    """The wheels that a site gets. Raises SiteError when Umbel's own is not among them."""
    found = sorted(file for file in folder.glob("*.whl") if _WHEEL.match(file.name))
    if not any(file.name.startswith("umbel-") for file in found):
        raise SiteError(
            f"there is no wheel of Umbel in {folder}: make a wheelhouse with "
            "'python -m federation provision wheelhouse FOLDER'"
        )
    return found


def environment(machine: Machine, files: list[Path]) -> str:
    """Folder of the environment that belongs to these wheels."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return f"{machine.folder}/env-{__version__}-{digest.hexdigest()[:8]}"


def install(machine: Machine, wheelhouse: Path) -> str:
    """Make the environment where it is not there; return its folder. Raises SiteError, Unreachable."""
    files = wheels(wheelhouse)
    env = environment(machine, files)
    for shell in machine.shells():
        _install(machine, shell, files, env)
    return env


def _install(machine: Machine, shell: Shell, files: list[Path], env: str) -> None:
    python = machine.site.settings.python
    version = shell.run([python, "-c", _VERSION])
    if version.code != 0:
        raise SiteError(f"the site needs Python 3.10 or newer as '{python}': {version.said}")
    check = [f"{env}/bin/python", "-m", "endpoint_worker", "--version"]
    if shell.run(check, timeout=120).code == 0:
        return
    log.info("%s: installing %d wheels into %s", machine.site.settings.address, len(files), env)
    for file in files:
        shell.write(f"{env}.wheels/{file.name}", file.read_bytes(), 0o600)
    # without pip and put there by pip's own wheel: many sites have a Python without ensurepip
    made = shell.run([python, "-m", "venv", "--without-pip", "--clear", env], timeout=INSTALL_TIMEOUT)
    if made.code != 0:
        raise SiteError(f"no virtual environment at {env}: {made.said}")
    pip = next((f"{env}.wheels/{file.name}/pip" for file in files if file.name.startswith("pip-")), "")
    if not pip:
        raise SiteError(f"there is no wheel of pip among {len(files)} wheels")
    words = [f"{env}/bin/python", pip, "install", "--quiet", "--no-index", "--find-links", f"{env}.wheels"]
    done = shell.run([*words, "umbel[endpoint]"], timeout=INSTALL_TIMEOUT)
    if done.code == 0:
        done = shell.run(check, timeout=120)
    if done.code != 0:
        raise SiteError(f"Umbel cannot be installed at {env}: {done.said}")


def give_credentials(fed: Federation, machine: Machine) -> None:
    """Make a new key and a new broker account for the endpoint, and write both on the site (mode 0600).

    The service keeps neither the key nor the password. Raises SiteError, Unreachable, BrokerError.
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
    """Whether the site has the endpoint's files."""
    file = f"{machine.folder}/endpoints/{machine.site.endpoint_name}/credentials.json"
    return all(shell.run(["test", "-s", file]).code == 0 for shell in machine.shells())


def remove(machine: Machine) -> None:
    """Delete everything that was put on the site for this endpoint, environments too. Raises SiteError."""
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
            raise SiteError(f"{folder} cannot be removed: {done.said}")
