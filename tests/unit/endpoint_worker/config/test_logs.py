"""Logs rotate, are JSON where wanted, and can be followed through a rotation."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from endpoint_worker.config import logs


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, which is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_file_rotates_and_a_bounded_number_is_kept(
    tmp_path: Path, root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES", 1000)
    monkeypatch.setattr(logs, "LOG_FILES", 2)
    file = tmp_path / "logs" / "n1.log"
    logs.set_up_logging("INFO", file)
    for i in range(200):
        logging.getLogger("endpoint_worker.node.node").info("line %d", i)
    assert sorted(path.name for path in file.parent.iterdir()) == ["n1.log", "n1.log.1", "n1.log.2"]
    assert all(path.stat().st_size <= 1000 for path in file.parent.iterdir())
    assert file.read_text().endswith("INFO    endpoint_worker.node.node: line 199\n")


def test_json_is_one_object_per_line_whatever_is_said(tmp_path: Path, root: logging.Logger) -> None:
    file = tmp_path / "n1.log"
    logs.set_up_logging("INFO", file, "json")
    log = logging.getLogger("endpoint_worker.node.node")
    log.debug("not this")
    log.warning('two\nlines and "%s" \udcff', "Zürich")
    try:
        raise KeyError("x")
    except KeyError:
        log.exception("it broke")
    first, second = map(json.loads, file.read_text().splitlines())
    assert (first["level"], first["logger"]) == ("WARNING", "endpoint_worker.node.node")
    assert first["message"].startswith('two\nlines and "Zürich"')
    assert abs(datetime.fromisoformat(first["time"]).timestamp() - file.stat().st_mtime) < 5
    assert "exception" not in first
    assert second["exception"].endswith("KeyError: 'x'")


def test_following_goes_on_in_the_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "POLL_INTERVAL", 0.01)
    file = tmp_path / "n1.log"
    file.write_text("a\nb\nc\n")
    lines = logs.read(file, 2, follow=True)
    assert [next(lines), next(lines)] == ["b\n", "c\n"]
    with file.open("a") as log:
        log.write("d\n")
        log.flush()
        assert next(lines) == "d\n"
        log.write("e\n")
    os.rename(file, tmp_path / "n1.log.1")
    file.write_text("f\n")
    assert [next(lines), next(lines)] == ["e\n", "f\n"]
    assert list(logs.read(file, 0)) == []
