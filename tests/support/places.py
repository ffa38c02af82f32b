"""Where the service's sources execute SQL, so that a test notices the statements that it did not reach."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from federation.db.statements import Statement
from tests.support.plans import PASSED_ON

ROOT = Path(__file__).resolve().parents[2]


def sites_of_statements() -> dict[str, list[tuple[str, range]]]:
    """Return the places in the sources that execute SQL: module:function → (module, lines) of each."""
    found: dict[str, list[tuple[str, range]]] = {}
    for file in sorted([*(ROOT / "federation").rglob("*.py"), *(ROOT / "webapp").rglob("*.py")]):
        module = str(file.relative_to(ROOT))
        if "/migrations/" in module or module in PASSED_ON:
            continue
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                lines = [(module, each) for node in ast.walk(function) if (each := _executes(node))]
                if lines:
                    found[f"{module}:{function.name}"] = lines
    return found


def _executes(node: ast.AST) -> range | None:
    """Return the lines of a call of ``connection.execute``, or None for other nodes."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return None
    receiver = node.func.value
    if node.func.attr != "execute" or not isinstance(receiver, ast.Name) or receiver.id != "connection":
        return None
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def statements() -> dict[str, Statement]:
    """Return all prepared statements of the service, by module and name."""
    return {
        f"{module.__name__}:{name}": value
        for module in list(sys.modules.values())
        if getattr(module, "__name__", "").startswith("federation.")
        for name, value in vars(module).items()
        if isinstance(value, Statement)
    }
