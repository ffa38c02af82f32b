"""The project's own source files, as the architecture tests look at them."""

from __future__ import annotations

import ast
import configparser
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Import name of each package and the folder it lives in.
PACKAGES = {
    "umbel": ROOT / "sdk" / "umbel",
    "endpoint_worker": ROOT / "endpoint_worker",
    "federation": ROOT / "federation",
    "webapp": ROOT / "webapp",
}
#: Where interpreters that tests start find all four.
PYTHONPATH = f"{ROOT / 'sdk'}:{ROOT}"


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """Yield (dotted name, file) of every module of ``package``; migration scripts are no modules."""
    folder = PACKAGES[package]
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder.parent).with_suffix("").parts
        if all(part.isidentifier() for part in parts) and "versions" not in parts:
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def all_modules() -> list[tuple[str, Path]]:
    """(dotted name, file) of every module of the four packages."""
    return [found for package in PACKAGES for found in modules(package)]


@lru_cache(maxsize=None)
def tree(file: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imported_names(file: Path, module: str) -> set[str]:
    """Every dotted name that ``file`` imports anywhere, relative imports made absolute."""
    found: set[str] = set()
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found.add(origin)
            found.update(f"{origin}.{alias.name}" for alias in node.names)
    return found


@lru_cache(maxsize=None)
def setup_cfg() -> configparser.ConfigParser:
    """The parsed setup.cfg."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config
