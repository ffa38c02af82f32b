"""A log file on a full disk prints nothing."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import pytest

from umbel.system.log_file import LogFile


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_only_errors_of_programs_are_printed(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.Logger("test")
    handler = LogFile("/dev/full")
    logger.addHandler(handler)
    logger.warning("a line")
    assert capfd.readouterr() == ("", "")
    logger.warning("%d lines", "many")
    assert "TypeError" in capfd.readouterr().err
    with suppress(OSError):  # what is buffered is still refused
        handler.stream.close()
