"""Count the SQL statements of a server process; loaded by Python if this directory is on its path.

Writes ``<pid>.json`` (statement -> [executions, rows of parameters]) to the directory in UMBEL_BENCH_COUNTS
whenever it has changed. Used by ``benchmarks.profile`` only.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

#: Seconds between two updates.
INTERVAL = 0.1


def _follow(folder: Path) -> None:
    while "federation.services.collector" not in sys.modules and "webapp.serve" not in sys.modules:
        if "federation.services.sweeper" in sys.modules or not threading.main_thread().is_alive():
            break
        time.sleep(INTERVAL)
    time.sleep(1)  # the imports of the process have finished by then
    from sqlalchemy import Engine, event

    from federation.db.statements import observed

    counts: dict[str, list[int]] = {}

    def record(sql: str, rows: int) -> None:
        entry = counts.setdefault(" ".join(sql.split()), [0, 0])
        entry[0] += 1
        entry[1] += rows

    def before(connection: object, cursor: object, sql: str, parameters: object, *_: object) -> None:
        record(sql, len(parameters) if isinstance(parameters, list) else 1)

    watching = observed(record)
    watching.__enter__()
    event.listen(Engine, "before_cursor_execute", before)
    file, written = folder / f"{os.getpid()}.json", ""
    while threading.main_thread().is_alive():
        text = json.dumps(dict(counts))
        if text != written:
            draft = file.with_suffix(".tmp")
            draft.write_text(text)
            os.replace(draft, file)
            written = text
        time.sleep(INTERVAL)


if "UMBEL_BENCH_COUNTS" in os.environ and {"webapp.serve", "collect", "sweep"} & set(sys.orig_argv):
    threading.Thread(target=_follow, args=(Path(os.environ["UMBEL_BENCH_COUNTS"]),), daemon=True).start()
