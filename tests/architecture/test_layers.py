"""Who may import whom: the contracts of setup.cfg, and what import-linter cannot say."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest

from tests.architecture.sources import PACKAGES, PYTHONPATH, ROOT, all_modules, imported_names, modules, tree

#: Parts of the SDK that its neighbours may use.
ALLOWED_OF_UMBEL = {
    "federation": ("umbel.protocol", "umbel.system"),
    "webapp": ("umbel.protocol", "umbel.system"),
}
#: What turns bytes into objects by running code that the bytes choose.
UNPICKLERS = {
    "pickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "marshal",
    "shelve",
    "jsonpickle",
    "umbel.serialization",
    "umbel.serialize",
}
#: Imports inside functions: "module: imported", each with its reason. Never add one to hide a circle.
LATE_IMPORTS: dict[str, str] = {
    "endpoint_worker.cli.main: ..node.celery_app": "runners start while Celery loads, a third of a second",
    "federation.db.engine: .": "Alembic is slow to import and needed only for migrations",
}


def test_the_import_contracts_are_kept() -> None:
    """The contracts themselves stand in setup.cfg; every package of the design is under them."""
    missing = [name for name, folder in PACKAGES.items() if not (folder / "__init__.py").exists()]
    assert not missing, f"packages without an __init__.py: {missing}"
    code = (
        "import sys; from importlinter.cli import lint_imports;"
        "sys.exit(lint_imports(config_filename='setup.cfg', no_cache=True))"
    )
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize("package", sorted(ALLOWED_OF_UMBEL))
def test_servers_use_only_the_protocol_of_the_sdk(package: str) -> None:
    wrong = [
        f"{module} imports {name}"
        for module, file in modules(package)
        for name in imported_names(file, module)
        if name.split(".")[0] == "umbel"
        and name != "umbel"
        and not name.startswith(ALLOWED_OF_UMBEL[package])
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("package", ["federation", "webapp", "umbel.protocol"])
def test_no_module_that_moves_bytes_can_unpickle_them(package: str) -> None:
    root = package.split(".")[0]
    wrong = [
        f"{module} imports {name}"
        for module, file in modules(root)
        if module.startswith(package)
        for name in imported_names(file, module) & UNPICKLERS
    ]
    assert not wrong, wrong


def test_no_import_hides_inside_a_function() -> None:
    """Such an import is how a circle is hidden; an optional extra is the only good reason."""
    found: set[str] = set()
    for module, file in all_modules():
        for function in ast.walk(tree(file)):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found.update(f"{module}: {name}" for name in _imports_inside(function))
    assert sorted(found - LATE_IMPORTS.keys()) == [], "move these to the top of their modules"
    assert sorted(LATE_IMPORTS.keys() - found) == [], "delete these entries of LATE_IMPORTS"


def _imports_inside(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names
