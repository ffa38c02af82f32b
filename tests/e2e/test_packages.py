"""A machine that knows only the URL of the service installs the SDK from it and submits a call."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from tests.support.embedded import ROOT, Embedded
from umbel import __version__

PROGRAM = """\
from umbel import Executor

def double(number):
    return 2 * number

with Executor("local") as executor:
    print(list(executor.map(double, range(4), timeout=60)))
"""


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("packages"), workers=1) as umbel:
        yield umbel


class Laptop:
    """A virtual environment that nothing of Umbel and no index is known to."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        venv.create(folder / "venv", with_pip=True, symlinks=True)
        # no variable of the machine that runs this test, and no configuration of its pip
        self.environ = {
            "PATH": f"{self.bin}{os.pathsep}{os.defpath}",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=self.folder, env=self.environ, input=stdin, capture_output=True, text=True, timeout=100
        )

    def ok(self, *words: str, stdin: str = "") -> str:
        run = self.run(*words, stdin=stdin)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    def borrow_dependencies(self) -> None:
        """What an index would provide: the test's own packages, behind those of the environment."""
        paths = [path for path in sys.path if path.endswith("site-packages")]
        purelib = self.ok("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        Path(purelib, "borrowed.pth").write_text("\n".join(paths) + "\n")


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    return Laptop(tmp_path_factory.mktemp("laptop"))


def _command(umbel: Embedded, kind: str = "sdk") -> list[str]:
    """A command of the page as words, without the dependencies."""
    with urllib.request.urlopen(f"{umbel.url}/packages/", timeout=60) as page:
        found = re.search(rf'<pre id="{kind}">(.*?)</pre>', page.read().decode())
    assert found
    words = shlex.split(unescape(found[1]))
    assert words[:2] == ["pip", "install"]
    return [*words, "--no-deps"]


def test_a_wrong_hash_installs_nothing(umbel: Embedded, laptop: Laptop) -> None:
    words = [re.sub(r"sha256=.{8}", "sha256=00000000", word) for word in _command(umbel)]
    run = laptop.run(*words)
    assert run.returncode != 0 and "HASH" in run.stderr.upper(), run.stdout + run.stderr
    assert not (laptop.bin / "umbel").exists()


def test_the_pages_command_installs_an_sdk_that_works(umbel: Embedded, laptop: Laptop) -> None:
    laptop.ok(*_command(umbel))
    laptop.borrow_dependencies()
    where = laptop.ok("python", "-c", "import umbel, endpoint_worker; print(umbel.__file__)")
    assert where.startswith(str(laptop.folder))
    assert __version__ in laptop.ok("umbel", "--version")
    assert __version__ in laptop.ok("umbel-endpoint", "--version")
    laptop.ok("umbel", "login", umbel.url, "--token-stdin", stdin=umbel.account()["token"] + "\n")
    (laptop.folder / "program.py").write_text(PROGRAM)
    assert laptop.ok("python", "program.py").strip() == "[0, 2, 4, 6]"


@pytest.mark.parametrize(
    "flags", [["--index-url", "{url}/packages/"], ["--no-index", "--find-links", "{url}/packages/all"]]
)
def test_pip_finds_it_by_name(umbel: Embedded, laptop: Laptop, flags: list[str], tmp_path: Path) -> None:
    words = [flag.format(url=umbel.url) for flag in flags]
    laptop.ok("pip", "install", "--no-deps", "--target", str(tmp_path / "found"), *words, "umbel")
    assert (tmp_path / "found" / "endpoint_worker" / "__init__.py").exists()


def test_nothing_secret_is_in_what_is_served(umbel: Embedded) -> None:
    url = next(word.partition(" @ ")[2].partition("#")[0] for word in _command(umbel) if "://" in word)
    with urllib.request.urlopen(url, timeout=60) as answer:
        wheel = zipfile.ZipFile(io.BytesIO(answer.read()))
    content = b"".join(wheel.read(name) for name in wheel.namelist())
    assert b"import umbel" in content
    for secret in (umbel.account()["token"], str(umbel.home), str(ROOT)):
        assert secret.encode() not in content
