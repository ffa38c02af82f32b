"""Sandboxes of every kind that can really run here, as tables of an endpoint.toml."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

PROGRAMS = {"bubblewrap": "bwrap", "podman": "podman", "charliecloud": "ch-run"}


def table(kind: str, image: Path | None, **more: object) -> dict[str, object]:
    """The values of ``[sandbox]``."""
    values: dict[str, object] = {"kind": kind, **more}
    if kind != "bubblewrap":
        values["image"] = str(image)
    if kind == "podman":
        if shutil.which("runc") or Path("/usr/sbin/runc").exists():
            # crun wants another kind of control groups than some machines have
            values["command"] = ["podman", "--runtime", "runc"]
        # podman's own default is more than this account may have
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        values["options"] = ["--ulimit", f"nofile={files}:{files}", "--ulimit", "nproc=10000:10000"]
    return values


def toml(kind: str, image: Path | None, **more: object) -> str:
    """The table ``[sandbox]`` as text."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in table(kind, image, **more).items()]
    return "\n[sandbox]\n" + "\n".join(lines) + "\n"
