"""The wheels that sites get, built once for each state of the code."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

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
            # what setuptools left of an earlier state would get into the wheel
            shutil.rmtree(ROOT / "build/lib", ignore_errors=True)
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
    digest = hashlib.sha256(sys.version.encode())
    for file in _sources():
        digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _sources() -> Iterator[Path]:
    for name in ("setup.cfg", "pyproject.toml", "README.rst", "federation/provision/cli/main.py"):
        yield ROOT / name
    for package in ("sdk/umbel", "endpoint_worker"):
        for file in sorted((ROOT / package).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                yield file
