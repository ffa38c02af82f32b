"""A log file on a disk that may become full."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler


class LogFile(RotatingFileHandler):
    """Like its base class, but lines that the system refuses to write are dropped.

    The base class prints a traceback for each, which fills a terminal while a disk is full.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - overrides
        """Report an error, unless it is one of the operating system."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
