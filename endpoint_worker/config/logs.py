"""Logging of a worker: text lines, or one JSON object per line; rotating files, and reading them."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from umbel.system.log_file import LogFile

#: Bytes of one log file, and the number of old files kept.
LOG_BYTES, LOG_FILES = 10 * 1024 * 1024, 5
_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
#: Seconds between two reads of a followed file.
POLL_INTERVAL = 0.2


class JsonFormatter(logging.Formatter):
    """One object per line: ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the log line."""
        entry = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def set_up_logging(level: str, file: Path | None = None, log_format: str = "text") -> None:
    """Log to standard error, or to a rotating file; ``log_format``: text or json."""
    handler: logging.Handler = logging.StreamHandler()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = LogFile(
            file, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", errors="backslashreplace"
        )
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Celery logs every message twice at INFO, and kombu every reconnect; Flower shows bundles instead
    logging.getLogger("celery.worker.strategy").setLevel(max(logging.WARNING, root.level))
    logging.getLogger("celery.app.trace").setLevel(max(logging.WARNING, root.level))


def read(file: Path, lines: int, *, follow: bool = False) -> Iterator[str]:
    """Yield the last lines of a log; with ``follow`` also new lines, across rotations, indefinitely."""
    log = file.open(encoding="utf-8", errors="replace")
    try:
        yield from log.readlines()[-lines:] if lines else []
        while follow:
            line = log.readline()
            if line:
                yield line
            elif _rotated(file, log.fileno()):
                log.close()
                log = file.open(encoding="utf-8", errors="replace")
            else:
                time.sleep(POLL_INTERVAL)
    finally:
        log.close()


def _rotated(file: Path, descriptor: int) -> bool:
    """Return whether the open file has been rotated."""
    try:
        return file.stat().st_ino != os.fstat(descriptor).st_ino
    except FileNotFoundError:  # rotation in progress
        return False
