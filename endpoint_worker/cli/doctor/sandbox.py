"""Whether the sandbox of an endpoint works and hides what it must: a part of ``umbel-endpoint check``."""

from __future__ import annotations

import subprocess

from umbel.protocol.errors import UmbelError

from ...config.directory import EndpointDirectory
from ...config.mounts import Start
from ...config.settings import Settings
from ...runners.options import runner_options
from ...sandbox.launchers import missing

#: Seconds that a first start may take: an image may have to be read from a slow disk.
TIMEOUT = 60.0
_SEEN, _UNWRITABLE = 41, 42
_HINTS = {
    "bubblewrap": "install bubblewrap (Debian, Ubuntu: apt install bubblewrap)",
    "podman": "install podman",
    "docker": "install docker and let this account use it",
    "apptainer": "install apptainer, or load its module in the environment in which the endpoint is started",
    "charliecloud": "install charliecloud (Debian, Ubuntu: apt install charliecloud-runtime)",
}


def check(directory: EndpointDirectory, chosen: Settings) -> tuple[bool, str, str]:
    """Try the sandbox; return whether all is well, what was seen, and what to do."""
    kind = chosen.sandbox.kind
    if kind == "none":
        if chosen.rules.sandbox:
            advice = "set 'kind' in [sandbox] of endpoint.toml, or take the rule away"
            return False, "rule sandbox refuses every call: the endpoint has no sandbox", advice
        return True, "none: calls may do what this account may", ""
    program = missing(chosen.sandbox)
    if program:
        hint = _HINTS.get(kind, f"install {kind}")
        return False, f"there is no program '{program}'", f"{hint}, or name it by 'command' in [sandbox]"
    try:
        code, said = _probe(directory, chosen)
    except UmbelError as error:
        return False, error.message, "mend [sandbox] of endpoint.toml"
    except (OSError, subprocess.SubprocessError) as error:
        return False, f"{kind} cannot be started: {error}", "try its command by hand"
    if code == 0:
        network = "" if chosen.sandbox.network else ", without network"
        return True, f"{kind}{network}: calls do not see the endpoint's folder", ""
    if code == _SEEN:
        return (
            False,
            f"calls can read {directory.path} in {kind}",
            "take the bind or option away that shows it",
        )
    if code == _UNWRITABLE:
        return False, f"calls cannot write to their folder in {kind}", "see 'work' and who owns that folder"
    return (
        False,
        f"{kind} does not run Python (exit code {code}): {said}",
        ("see what it said; where namespaces are refused, ask root to allow them to this account"),
    )


def _probe(directory: EndpointDirectory, chosen: Settings) -> tuple[int, str]:
    """Run a little program inside, as runners are started."""
    options = runner_options(directory, chosen)
    options.directory.mkdir(parents=True, exist_ok=True)
    secret = str(directory.path / "credentials.json")
    code = (
        f"import os, sys, tempfile; os.path.exists({secret!r}) and sys.exit({_SEEN}); "
        f"os.access('.', os.W_OK) or sys.exit({_UNWRITABLE})"
    )
    start = Start(
        [*options.python, "-c", code], options.directory, options.mounts, options.environment, options.hidden
    )
    run = subprocess.run(
        options.launcher.command(start),
        env=options.launcher.environment(start),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    return run.returncode, run.stderr.decode(errors="replace").strip()[-500:]
