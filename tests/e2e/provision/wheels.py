"""The wheels that sites get, built once for each state of the code."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from federation.packages import build
from tests.support.embedded import ROOT, environment

CACHE = Path("/var/tmp/umbel-e2e-wheels")
#: Wheels of other states of the code are kept for so many seconds.
KEPT = 86400.0


def wheelhouse() -> Path:
    """A folder with the wheels of this checkout as it is now and of all it needs."""
    CACHE.mkdir(exist_ok=True)
    wanted = CACHE / _digest()
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.exists():
            draft = CACHE / f"draft-{os.getpid()}"
            words = [sys.executable, "-m", "federation", "provision", "wheelhouse", str(draft)]
            done = subprocess.run(
                words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=400
            )
            assert done.returncode == 0, done.stderr
            draft.rename(wanted)
        os.utime(wanted)
        for folder in CACHE.iterdir():
            if folder.is_dir() and time.time() - folder.stat().st_mtime > KEPT:
                shutil.rmtree(folder, ignore_errors=True)
    return wanted


def _digest() -> str:
    """Of everything that gets into the wheels: code, packaging, and the Python that chooses the wheels."""
    command = (ROOT / "federation/provision/cli/main.py").read_bytes()
    digest = hashlib.sha256(f"{sys.version}\0{build.digest(ROOT)}\0".encode() + command)
    return digest.hexdigest()[:16]
