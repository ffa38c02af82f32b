"""What README.rst and the manual show is run as a newcomer would, against an embedded federation.

The Python blocks of a page are one script; its shell blocks are one session. A block with a caption is the
file of that name. Comments after ``print(...)`` are what is printed, several lines separated by "; ". A block
that cannot be run here has a line ``.. not run: REASON`` directly above it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.embedded import embedded_federation
from tests.architecture.blocks import PAGES, Block, blocks, hides_commands, marks
from tests.architecture.sources import PYTHONPATH

#: Languages of blocks that are data, not programs.
DATA = {"toml", "json", "text", "none"}
#: The commands as setup.cfg installs them, also where they are not installed.
COMMANDS = {"umbel": "umbel.cli.main", "umbel-endpoint": "endpoint_worker.cli.main"}
PRINTED = re.compile(r"^\s*print\(.*\)\s+# (.+)$", re.MULTILINE)

Service = dict[str, str]


def _run_blocks(page: str, language: str) -> list[Block]:
    return [b for b in blocks(page) if b.language == language and b.reason is None and b.caption is None]


def _pages(language: str) -> list[str]:
    return [page for page in PAGES if _run_blocks(page, language)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The environment of a user of a running embedded federation, with its URL as ``URL``."""
    commands = tmp_path_factory.mktemp("bin")
    for name, module in COMMANDS.items():
        program = f"import sys; from {module} import main; sys.exit(main(prog_name='{name}'))"
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$@"\n')
        (commands / name).chmod(0o755)
    with embedded_federation() as url:
        yield {
            **os.environ,
            "URL": url,
            "HOME": str(tmp_path_factory.mktemp("home")),
            "PATH": os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": PYTHONPATH,
        }


@pytest.fixture
def workplace(service: Service, tmp_path: Path) -> Iterator[Path]:
    """An empty working directory; endpoints that a page has made are stopped and deleted afterwards."""
    yield tmp_path
    for folder in Path(service["UMBEL_HOME"], "endpoints").iterdir():
        if folder.name != "local":
            for words in (["stop", folder.name], ["delete", folder.name, "--yes"]):
                subprocess.run(["umbel-endpoint", *words], env=service, capture_output=True, timeout=60)


def _run(command: list[str], service: Service, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=service, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _write_files(page: str, folder: Path) -> None:
    for block in blocks(page):
        if block.caption is not None:
            (folder / block.caption).write_text(block.text, encoding="utf-8")


def _here(text: str, service: Service) -> str:
    """The text with the addresses and the token of this service in place of the documented ones."""
    token = json.loads(Path(service["UMBEL_HOME"], "client.json").read_text(encoding="utf-8"))["token"]
    for shown in ("http://127.0.0.1:8642", "http://service.example:8642"):
        text = text.replace(shown, service["URL"])
    return text.replace("umb_...", token)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_why_not(page: str) -> None:
    found = blocks(page)
    for block in found:
        where = f"{page}:{block.line}"
        assert block.language in DATA | {"python", "sh"}, f"{where}: language '{block.language}'"
        assert block.reason is None or len(block.reason) > 8, f"{where}: 'not run' without a reason"
        assert block.reason is None or block.caption is None, f"{where}: a file is not run anyway"
        assert block.text.strip(), f"{where}: an empty block"
    assert not hides_commands(page), f"{page}: commands belong in a block '.. code-block:: sh'"
    marked = sum(block.reason is not None for block in found)
    assert marks(page) == marked, f"{page}: a 'not run' mark that is not directly above a block"


def test_blocks_are_found() -> None:
    assert {"README.rst", "docs/tutorial/first-hour.rst"} <= set(_pages("python")) & set(_pages("sh"))
    assert len(_pages("python")) >= 8 and len(_pages("sh")) >= 6


@pytest.mark.parametrize("page", _pages("python"))
def test_the_python_of_a_page_runs(page: str, service: Service, workplace: Path) -> None:
    _write_files(page, workplace)
    program = _here("\n".join(block.text for block in _run_blocks(page, "python")), service)
    script = workplace / "page.py"
    script.write_text(program, encoding="utf-8")
    lines = iter(_run([sys.executable, str(script)], service, workplace).splitlines())
    for expected in [line for shown in PRINTED.findall(program) for line in shown.split("; ")]:
        assert expected in lines, f"{page} shows {expected!r}, which is not printed (in this order)"


@pytest.mark.parametrize("page", _pages("sh"))
def test_the_shell_of_a_page_runs(page: str, service: Service, workplace: Path) -> None:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("curl or bash is not installed")
    _write_files(page, workplace)
    session = "\n".join(_here(block.text, service) for block in _run_blocks(page, "sh"))
    said = _run(["bash", "-euo", "pipefail", "-c", session], service, workplace)
    for line in EXPECTED.get(page, ()):
        assert re.search(line, said, re.MULTILINE), f"{page}: {line!r} is not in\n{said}"


#: What the shell session of a page prints, among other things.
EXPECTED = {
    "README.rst": ["^2432902008176640000$"],
    "docs/tutorial/first-hour.rst": ["^12$", "^5$", "succeeded", '"name": "area"'],
    "docs/tutorial/first-endpoint.rst": ["^lab .*online", "^running$", "queued|dispatched"],
    "docs/tutorial/first-cluster.rst": ["^#SBATCH"],
    "docs/how-to/run-an-endpoint.rst": ["^umc_|=umc_", "^lab"],
    "docs/how-to/use-the-command-line.rst": ["^12$", "^5$", "area"],
    "docs/how-to/tune-a-cluster.rst": ["380"],
    "docs/how-to/operate-the-service.rst": ['"status": ?"ok"'],
}


def test_the_asserts_of_the_readme_can_fail(service: Service, workplace: Path) -> None:
    [block] = [block for block in blocks("README.rst") if block.language == "python"]
    script = workplace / "ten_lines.py"
    script.write_text(block.text.replace("2.929", "2.828"), encoding="utf-8")
    with pytest.raises(AssertionError, match="round"):
        _run([sys.executable, str(script)], service, workplace)
