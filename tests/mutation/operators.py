"""Small changes of a module's syntax tree, each of which is a mutant.

They include missing statements and calls made too late: a forgotten check, wake-up or lock is the kind of
fault that matters most here.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from typing import NamedTuple

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in place of a node of a function's body."""
    yield from _of_statement(node)
    yield from _of_expression(node)


def _of_expression(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                changed = copy.deepcopy(node)
                changed.ops[place] = other()
                yield changed
    elif isinstance(node, ast.BoolOp):
        for place in range(len(node.values)):
            rest = node.values[:place] + node.values[place + 1 :]
            yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.Call):
        yield from _without_argument(node)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        yield ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)


def _of_statement(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, (ast.If, ast.IfExp, ast.While)):
        for value in (True, False) if not isinstance(node, ast.While) else (False,):
            changed = copy.deepcopy(node)
            changed.test = ast.Constant(value)
            yield changed
    elif isinstance(node, ast.Return) and not isinstance(node.value, (ast.Constant, type(None))):
        yield ast.Return(ast.Constant(None))
    if isinstance(
        node, (ast.Expr, ast.Assign, ast.AugAssign, ast.Raise, ast.Continue, ast.Break, ast.Delete)
    ):
        yield ast.Pass()
    if isinstance(node, ast.Return) and node.value is None:
        yield ast.Pass()


def _without_argument(node: ast.Call) -> Iterator[ast.AST]:
    """Yield a ``where`` or ``and_`` without one of its conditions."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in ("where", "and_", "or_") and len(node.args) > 1:
        for place in range(len(node.args)):
            yield ast.Call(node.func, node.args[:place] + node.args[place + 1 :], node.keywords)
    elif name == "where" and isinstance(node.func, ast.Attribute):
        yield node.func.value


class Mutant(NamedTuple):
    """A mutant of a module.

    ``lines``: of the place that differs; ``traced``: whether each test executes them anew; ``before`` and
    ``after``: the code; ``tree``: of the whole module.
    """

    lines: range
    traced: bool
    before: str
    after: str
    tree: ast.Module

    def __str__(self) -> str:
        return f"{self.lines[0]}: {self.before}  ->  {self.after}"


def mutants(tree: ast.Module) -> Iterator[Mutant]:
    """Yield each mutant of a module."""
    for function in _functions(tree):
        # what a module's lambda or a cached function makes is kept for the next test
        traced = not isinstance(function, ast.Lambda) and not function.decorator_list
        for parent in ast.walk(function):
            if _is_message(parent):
                continue
            for field, value in ast.iter_fields(parent):
                nodes = value if isinstance(value, list) else [value]
                for place, node in enumerate(nodes):
                    if parent is function and field in ("args", "decorator_list", "returns"):
                        continue
                    if field == "annotation":
                        continue
                    if not isinstance(node, ast.AST) or _is_message(node):
                        continue
                    for changed in variants(node):
                        before = ast.unparse(node)
                        _set(parent, field, place if isinstance(value, list) else None, changed)
                        try:
                            mutated = ast.fix_missing_locations(copy.deepcopy(tree))
                        finally:
                            _set(parent, field, place if isinstance(value, list) else None, node)
                        yield Mutant(
                            _lines(node), traced, _short(before), _short(ast.unparse(changed)), mutated
                        )
                if isinstance(value, list):
                    yield from _swapped(tree, value, traced)


def _lines(first: ast.AST, last: ast.AST | None = None) -> range:
    """Return the lines of the code from one node to another; of a compound statement only its condition."""
    end = first.test if isinstance(first, (ast.If, ast.While)) else last or first
    return range(getattr(first, "lineno", 0), getattr(end, "end_lineno", 0) + 1)


def _swapped(tree: ast.Module, nodes: list[ast.AST], traced: bool) -> Iterator[Mutant]:
    """Yield mutants that call something after the next statement instead of before it."""
    for place in range(len(nodes) - 1):
        first, second = nodes[place : place + 2]
        if (
            isinstance(first, ast.Expr)
            and isinstance(second, (ast.Expr, ast.Assign))
            and not _is_message(first)
            and not _is_message(second)
        ):
            nodes[place : place + 2] = second, first
            mutated = copy.deepcopy(tree)
            nodes[place : place + 2] = first, second
            after = f"after {_short(ast.unparse(second))}"
            yield Mutant(_lines(first, second), traced, _short(ast.unparse(first)), after, mutated)


def _short(code: str) -> str:
    return code.split("\n")[0]


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda]:
    """Yield functions, methods and the module's lambdas, of which SQL statements are made.

    Functions inside functions belong to the outer one.
    """
    for node in tree.body:
        if isinstance(node, ast.Assign):
            yield from (each for each in ast.walk(node) if isinstance(each, ast.Lambda))
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        for each in inner:
            if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield each


def _is_message(node: ast.AST) -> bool:
    """Return whether a node is a docstring or an annotation, or writes to the log."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    call = node.value if isinstance(node, ast.Expr) else node
    return isinstance(call, ast.Call) and ast.unparse(call.func).startswith(("log.", "logger."))


def _set(parent: ast.AST, field: str, place: int | None, node: ast.AST) -> None:
    if place is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[place] = node
