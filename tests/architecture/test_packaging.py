"""The wheel holds umbel and endpoint_worker whole, and nothing of the server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import umbel
from tests.architecture.sources import PACKAGES, ROOT, setup_cfg


def _packages_on_disk(name: str) -> set[str]:
    folder = PACKAGES[name]
    return {".".join(init.parent.relative_to(folder.parent).parts) for init in folder.rglob("__init__.py")}


def test_the_list_of_packages_is_complete() -> None:
    """setup.cfg names packages one by one, because find: knows only one root."""
    listed = set(setup_cfg()["options"]["packages"].split())
    assert listed == _packages_on_disk("umbel") | _packages_on_disk("endpoint_worker")


def test_every_folder_with_code_is_a_package() -> None:
    for folder in PACKAGES.values():
        for file in folder.rglob("*.py"):
            if "migrations" not in file.parts:
                assert (file.parent / "__init__.py").exists(), f"{file.parent} has no __init__.py"


def test_files_beside_the_code_are_shipped() -> None:
    """Whatever is not Python in a shipped package must be named under package_data."""
    patterns = dict(setup_cfg()["options.package_data"])
    for name in ("umbel", "endpoint_worker"):
        others = [f for f in PACKAGES[name].rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc")]
        globs = patterns.get(name, "").split()
        missing = [f for f in others if not any(f.relative_to(PACKAGES[name]).match(g) for g in globs)]
        assert not missing, f"add to [options.package_data] {name}: {missing}"
        assert (PACKAGES[name] / "py.typed").exists()


def test_there_is_one_version() -> None:
    version = setup_cfg()["metadata"]["version"]
    assert umbel.__version__ == version
    assert re.search(
        rf"^{re.escape(version)}\b", _changelog(), re.MULTILINE
    ), "CHANGELOG.rst lacks this version"


def _changelog() -> str:
    return (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")


def test_pyproject_names_the_build_system_and_nothing_else() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").strip().splitlines()
    assert len(lines) == 3
    assert lines[0] == "[build-system]"


def test_every_dependency_has_a_lower_and_an_upper_bound() -> None:
    config = setup_cfg()
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    wanted = [
        line for text in texts for line in text.splitlines() if line.strip() and not line.startswith("#")
    ]
    loose = [line for line in wanted if not (">=" in line and ",<" in line)]
    assert not loose, loose


def test_the_licence_is_there() -> None:
    text = Path(ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text


def test_a_directory_named_umbel_does_not_hide_the_package(tmp_path: Path) -> None:
    """As in the parent of a checkout: Python would take the directory for a namespace package."""
    (tmp_path / "umbel").mkdir()
    program = "from umbel import Executor; import endpoint_worker"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
