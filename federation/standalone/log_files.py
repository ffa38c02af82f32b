"""Log files of child processes: shown as they grow, and kept from growing for ever."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TextIO

from umbel.system.files import append_private

#: A log file larger than this is put aside, bytes; one older part is kept.
LIMIT = 16 * 1024 * 1024


def tail(file: Path, lines: int = 20) -> str:
    """The last lines of a log file; empty when there is none."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - 200 * lines))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def trim(folder: Path) -> None:
    """Put large log files of ``folder`` aside as ``NAME.log.1``; their writers, who append, begin anew."""
    for log in folder.glob("*.log"):
        if log.stat().st_size > LIMIT:
            old = log.with_name(log.name + ".1")
            os.close(append_private(old))  # made with its mode before anything is in it
            shutil.copyfile(log, old)
            os.truncate(log, 0)


class Echo:
    """Repeats what is added to the log files of a folder, each line with its file's name before it."""

    def __init__(self, folder: Path, out: TextIO):
        self._folder = folder
        self._out = out
        self._seen = {log: log.stat().st_size for log in folder.glob("*.log")}

    def step(self) -> None:
        """Write the whole lines that were added since the last step."""
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
