"""A virtual environment for each peer, made once and kept in ``.bench/environments``."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys

from .peers import PEERS
from .peers.base import ROOT

#: Everything that benchmarks keep between runs; git ignores it.
CACHE = ROOT / ".bench"


def python_of(peer: str) -> str:
    """The interpreter that runs the peer's sessions; its environment is made if there is none yet.

    Raises RuntimeError with the end of pip's output when something cannot be installed.
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
