"""Build the wheel of ``umbel`` and ``endpoint_worker``: ``python -m federation.packages.build DIRECTORY``.

The build needs no network, only setuptools. It works on a copy of the sources, so that the release tree may
be read-only and no earlier build leaves files in the wheel. Equal sources and an equal setuptools give an
equal wheel, byte for byte: all machines of a service offer the same hash.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from umbel.protocol.errors import UmbelError
from umbel.protocol.version import __version__
from umbel.system.processes import end_with_parent

ROOT = Path(__file__).resolve().parents[2]
#: The wheel of this release.
WHEEL = f"umbel-{__version__}-py3-none-any.whl"
#: What the wheel is made of, relative to the release tree.
FILES = ("setup.cfg", "pyproject.toml", "README.rst", "LICENSE")
PACKAGES = ("sdk/umbel", "endpoint_worker")
#: Seconds that a build may take.
TIMEOUT = 120.0
#: The first version of setuptools that builds wheels without another package.
SETUPTOOLS = (70, 1)
_MISSING = "setuptools 70.1 or newer is missing: run pip install 'setuptools>=70.1'"
#: Run with -I in the copy of the sources.
_BUILD = f"""\
import sys
try:
    import setuptools
    from setuptools import build_meta
    version = tuple(map(int, setuptools.__version__.split(".")[:2]))
except ImportError:
    version = (0, 0)
if version < {SETUPTOOLS}:
    sys.exit({_MISSING!r})
build_meta.build_wheel(sys.argv[1])
"""
#: Time stamp of every file in the wheel: the earliest that a zip file can hold.
_EPOCH = "315532800"


class BuildError(UmbelError):
    """The wheel cannot be built; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Build the wheel and print its path and SHA-256; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m federation.packages.build",
        description="Build the wheel of umbel and endpoint_worker without network access.",
    )
    parser.add_argument("directory", type=Path, help="where the wheel is written")
    directory = parser.parse_args(argv).directory
    try:
        wheel = build(directory)
    except BuildError as error:
        print(f"umbel: {error.message}", file=sys.stderr)
        return 1
    print(f"{wheel}\nsha256={hashlib.sha256(wheel.read_bytes()).hexdigest()}")
    return 0


def build(directory: Path, root: Path = ROOT) -> Path:
    """Build the wheel of the release tree ``root`` into ``directory``; return its path.

    A wheel that is there is replaced in one step. Raises BuildError.
    """
    directory = directory.absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # the draft is on the same file system, so that it can be renamed
        with tempfile.TemporaryDirectory(prefix=".build-", dir=directory) as draft:
            source, output = Path(draft, "source"), Path(draft, "wheel")
            output.mkdir()
            for file in sources(root):
                copy = source / file.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
                copy.chmod(0o644)
            _run(source, output)
            wheel = output / WHEEL
            wheel.chmod(0o644)
            os.replace(wheel, directory / WHEEL)
    except OSError as error:
        raise BuildError(f"the wheel of Umbel cannot be built in {directory}: {error}") from None
    return directory / WHEEL


def _run(source: Path, output: Path) -> None:
    command = [sys.executable, "-I", "-c", _BUILD, str(output)]
    # nothing of this process's environment is needed, and a secret in it must not get into the wheel
    environ = {"PATH": os.environ.get("PATH", os.defpath), "SOURCE_DATE_EPOCH": _EPOCH, "TMPDIR": str(output)}
    try:
        done = subprocess.run(
            command,
            cwd=source,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            preexec_fn=partial(end_with_parent, os.getpid()),
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"the wheel of Umbel cannot be built: not finished after {TIMEOUT:g} s") from None
    if done.returncode != 0 or not (output / WHEEL).is_file():
        said = done.stderr.strip().splitlines() or [f"no {WHEEL}"]
        raise BuildError(f"the wheel of Umbel cannot be built with {sys.executable}: {said[-1]}")


def sources(root: Path = ROOT) -> Iterator[Path]:
    """The files of a release tree that the wheel is made of. Raises FileNotFoundError when one is missing."""
    for name in FILES:
        file = root / name
        file.stat()
        yield file
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*")):
            if file.suffix == ".py" or file.name == "py.typed":
                yield file


def digest(root: Path = ROOT) -> str:
    """SHA-256 of everything that the wheel is made of. Raises OSError."""
    total = hashlib.sha256()
    for file in sources(root):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(root)}\0{content}\n".encode())
    return total.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
