"""Whether the sandbox of an endpoint works and hides private files: a part of ``umbel-endpoint check``."""

from __future__ import annotations

import subprocess

from umbel.protocol.errors import UmbelError

from ...config.directory import EndpointDirectory
from ...config.mounts import Start
from ...config.settings import Settings
from ...runners.options import runner_options
from ...sandbox.launchers import missing

#: Seconds for a first start: the image may have to be read from a slow disk.
TIMEOUT = 60.0
_SEEN, _UNWRITABLE = 41, 42
_HINTS = {
    "bubblewrap": "install bubblewrap (Debian, Ubuntu: apt install bubblewrap)",
    "podman": "install podman",
    "docker": "install docker and let this account use it",
    "apptainer": "install apptainer, or load its module before starting the endpoint",
    "charliecloud": "install charliecloud (Debian, Ubuntu: apt install charliecloud-runtime)",
}


def check(directory: EndpointDirectory, chosen: Settings) -> tuple[bool, str, str]:
    """Try the sandbox; return whether it works, what was found, and what to do."""
    kind = chosen.sandbox.kind
    if kind == "none":
        if chosen.rules.sandbox:
            advice = "set 'kind' in [sandbox] of endpoint.toml, or remove the rule"
            return False, "rule 'sandbox' rejects every call, because the endpoint has no sandbox", advice
        return True, "none: calls have all permissions of this account", ""
    program = missing(chosen.sandbox)
    if program:
        hint = _HINTS.get(kind, f"install {kind}")
        return False, f"program '{program}' not found", f"{hint}, or set 'command' in [sandbox]"
    try:
        code, said = _probe(directory, chosen)
    except UmbelError as error:
        return False, error.message, "correct [sandbox] in endpoint.toml"
    except (OSError, subprocess.SubprocessError) as error:
        return False, f"{kind} cannot be started: {error}", "run its command by hand to see the error"
    if code == 0:
        network = "" if chosen.sandbox.network else ", without network"
        return True, f"{kind}{network}: calls cannot see the endpoint's directory", ""
    if code == _SEEN:
        return (
            False,
            f"calls can read {directory.path} in {kind}",
            "remove the bind or option that exposes it",
        )
    if code == _UNWRITABLE:
        return (
            False,
            f"calls cannot write to their directory in {kind}",
            "check 'work' and the owner of that directory",
        )
    return (
        False,
        f"{kind} does not run Python (exit code {code}): {said}",
        ("read its output; if namespaces are disabled, ask an administrator to enable them for this account"),
    )


def _probe(directory: EndpointDirectory, chosen: Settings) -> tuple[int, str]:
    """Run a small program in the sandbox, in the same way as a runner."""
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
