"""Copies of the pure-Python packages that a runner needs, for an interpreter without them.

A copy is in the endpoint's cache under the digest of its content, so that nodes of different versions can
share a directory. A sandbox mounts it, and a runner of another environment has it on its import path.
"""

from __future__ import annotations

import compileall
import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import endpoint_worker
import umbel


def _packages() -> list[Path]:
    """Directories of the packages. cloudpickle is not imported here: only runners unpickle."""
    found = importlib.util.find_spec("cloudpickle")
    files = (umbel.__file__, endpoint_worker.__file__, found.origin if found else None)
    return [Path(str(place)).resolve().parent for place in files]


def make(cache: Path) -> Path:
    """Return the directory of the copy below ``cache``, creating it if needed. Raises OSError."""
    files = dict(_files())
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name}\0".encode() + file.read_bytes() + b"\0")
    copy = cache / "kit" / digest.hexdigest()[:16]
    if copy.is_dir():
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=copy.parent, prefix=".draft-"))
    try:
        for name, file in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, draft / name)
        # mounted read-only: without this, every start would compile the modules
        compileall.compile_dir(draft, stripdir=str(draft), quiet=2)
        draft.chmod(0o755)
        os.rename(draft, copy)
    except OSError:
        # another node was faster and has made the same copy
        if not copy.is_dir():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return copy


def _files() -> list[tuple[str, Path]]:
    found = []
    for root in _packages():
        found += [(f"{root.name}/{file.relative_to(root)}", file) for file in sorted(root.rglob("*.py"))]
    return found
