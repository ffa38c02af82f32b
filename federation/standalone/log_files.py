"""Log files of child processes: followed while they grow, and limited in size."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TextIO

from umbel.system.files import append_private

#: Size above which a log file is rotated, bytes; one older file is kept.
LIMIT = 16 * 1024 * 1024


def tail(file: Path, lines: int = 20) -> str:
    """Return the last lines of a log file; empty if the file does not exist."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - 200 * lines))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def trim(folder: Path) -> None:
    """Copy large log files of ``folder`` to ``NAME.log.1`` and truncate them; their writers append."""
    for log in folder.glob("*.log"):
        if log.stat().st_size > LIMIT:
            old = log.with_name(log.name + ".1")
            os.close(append_private(old))  # created with its mode before it has any content
            shutil.copyfile(log, old)
            os.truncate(log, 0)


class LogFollower:
    """Prints lines appended to the log files of a directory, prefixed with the name of the file."""

    def __init__(self, folder: Path, out: TextIO):
        self._folder = folder
        self._out = out
        self._seen = {log: log.stat().st_size for log in folder.glob("*.log")}

    def step(self) -> None:
        """Print the complete lines appended since the last step."""
        for log in sorted(self._folder.glob("*.log")):
            seen, size = self._seen.get(log, 0), log.stat().st_size
            if size == seen:
                continue
            with log.open("rb") as file:
                file.seek(seen if size > seen else 0)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._seen[log] = (seen if size > seen else 0) + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                self._out.write(f"{log.stem:>9} | {line}\n")
        self._out.flush()
