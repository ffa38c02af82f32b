"""What README.rst and the quickstart show is run as a newcomer would, against an embedded federation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.embedded import embedded_federation
from tests.architecture.sources import PYTHONPATH, ROOT


def _blocks(file: str, language: str) -> list[str]:
    """The code blocks of one language in a reST file."""
    text = (ROOT / file).read_text(encoding="utf-8")
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


@pytest.fixture(scope="module")
def service() -> Iterator[dict[str, str]]:
    """The environment of a user of a running embedded federation, with its URL as ``URL``."""
    with embedded_federation() as url:
        folder = Path(sys.executable).parent
        yield {
            **os.environ,
            "URL": url,
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": PYTHONPATH,
        }


def _run(command: list[str], service: dict[str, str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=service, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_python_of_the_readme_runs(service: dict[str, str], tmp_path: Path) -> None:
    blocks = _blocks("README.rst", "python")
    assert len(blocks) == 1
    script = tmp_path / "ten_lines.py"
    script.write_text(blocks[0])
    _run([sys.executable, str(script)], service, tmp_path)
    # and the asserts in it are not decoration
    script.write_text(blocks[0].replace("2.929", "2.828"))
    with pytest.raises(AssertionError, match="round"):
        _run([sys.executable, str(script)], service, tmp_path)


def test_the_curl_of_the_readme_runs(service: dict[str, str], tmp_path: Path) -> None:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("curl or bash is not installed")
    [block] = [block for block in _blocks("README.rst", "sh") if "curl" in block]
    script = block.replace("http://127.0.0.1:8642", service["URL"])
    assert script != block
    assert _run(["bash", "-euo", "pipefail", "-c", script], service, tmp_path).split() == [
        "2432902008176640000"
    ]


def test_the_python_of_the_quickstart_runs(service: dict[str, str], tmp_path: Path) -> None:
    blocks = _blocks("docs/quickstart.rst", "python")
    assert len(blocks) >= 4
    script = tmp_path / "quickstart.py"
    script.write_text("\n".join(blocks))
    lines = _run([sys.executable, str(script)], service, tmp_path).split("\n")
    assert lines[:2] == ["12", "[0, 1, 2, 3, 4]"]
    assert lines[2:8] == ["0 0.5", "1 0.25", "2 0.125", "0.125", "['a', 'b', 'c']", "42"]
    assert lines[-2] == "12"


def test_the_commands_of_the_quickstart_run(service: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "geometry.py").write_text("def area(width, height=1):\n    return width * height\n")
    [block] = [block for block in _blocks("docs/quickstart.rst", "sh") if "umbel run" in block]
    # the command as setup.cfg installs it, also where it is not installed
    command = """umbel() { python -c 'from umbel.cli.main import main; main(prog_name="umbel")' "$@"; }\n"""
    said = _run(["bash", "-euo", "pipefail", "-c", command + block], service, tmp_path)
    assert re.search(r"^12$", said, re.MULTILINE) and re.search(r"^5$", said, re.MULTILINE), said
    assert "is succeeded" in said and '"name": "area"' in said, said
