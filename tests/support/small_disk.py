"""A small file system of its own that is full on demand; only root can mount it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path


def missing() -> str | None:
    """Return why no file system can be mounted here, or None if one can."""
    if os.geteuid() != 0:
        return "only root can mount a file system"
    with tempfile.TemporaryDirectory(prefix="small-disk-") as folder:
        try:
            with SmallDisk(Path(folder), "1m"):
                return None
        except subprocess.CalledProcessError as error:
            return f"no file system can be mounted: {error.stderr.strip()}"


class SmallDisk:
    """An empty tmpfs on ``folder``, mounted for a ``with`` block. ``size``: as mount takes it, "16m"."""

    def __init__(self, folder: Path, size: str):
        self.folder, self.size = folder, size

    def __enter__(self) -> SmallDisk:
        self._mount("-t", "tmpfs", "-o", f"mode=700,size={self.size}", "tmpfs")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def fill(self) -> None:
        """Leave no free block; repeat it to take away what was freed since."""
        # shrinking it to what it contains costs no memory, other than a file that fills it
        for _ in range(100):
            state = os.statvfs(self.folder)
            if not state.f_bfree:
                return
            used = (state.f_blocks - state.f_bfree) * state.f_frsize
            try:
                self._mount("-o", f"remount,size={max(used, state.f_frsize)}")
            except subprocess.CalledProcessError:
                continue  # it contains more now
        raise AssertionError(f"{self.folder} cannot be filled")

    def empty(self) -> None:
        """Give it its size again."""
        self._mount("-o", f"remount,size={self.size}")

    def _mount(self, *words: str) -> None:
        command = ["mount", *words, str(self.folder)]
        subprocess.run(command, check=True, capture_output=True, text=True)
