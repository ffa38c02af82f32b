"""The kit: copies of the pure-Python packages that a runner needs, for an interpreter that has none of them.

It lies in the endpoint's cache under the digest of its content, so that nodes of different versions may share
a folder; a sandbox mounts it, and a runner of another environment has it on its path.
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
    """Their folders. The third is not imported: only runners unpickle."""
    found = importlib.util.find_spec("cloudpickle")
    files = (umbel.__file__, endpoint_worker.__file__, found.origin if found else None)
    return [Path(str(place)).resolve().parent for place in files]


def make(cache: Path) -> Path:
    """Return the kit's folder below ``cache``; it is made if it is not there. Raises OSError."""
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
        # it is mounted read-only: what is not compiled now would be compiled at every start
        compileall.compile_dir(draft, stripdir=str(draft), quiet=2)
        draft.chmod(0o755)
        os.rename(draft, copy)
    except OSError:
        # another node was faster: its kit is the same
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
