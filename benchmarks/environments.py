"""A virtual environment for each peer, created once in ``.bench/environments``."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys

from .peers import PEERS
from .peers.base import ROOT

#: Directory for everything that is kept between runs; ignored by git.
CACHE = ROOT / ".bench"


def python_of(peer: str) -> str:
    """Return the interpreter for the peer's sessions; create its environment if necessary.

    Raises RuntimeError with the end of pip's output if the installation fails.
    """
    requirements = PEERS[peer].requirements
    if not requirements:
        return sys.executable
    key = hashlib.sha256(repr((requirements, sys.version_info[:3])).encode()).hexdigest()[:10]
    folder = CACHE / "environments" / f"{peer}-{key}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"Installing {peer} ({' '.join(requirements)}), once", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--no-input", *requirements])
        (folder / "complete").touch()
    return str(python)


def _run(command: list[str]) -> None:
    environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(f"'{' '.join(command)}' failed:\n{(done.stdout + done.stderr)[-1500:]}")
