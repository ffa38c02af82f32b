"""One tree of errors: every code has its HTTP status, every error survives the way between processes."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator

import pytest

from tests.architecture.sources import all_modules, tree
from umbel.protocol import errors
from umbel.protocol.errors import (
    HTTP_STATUS,
    STATE_CODES,
    STREAM_CODES,
    TASK_CODES,
    ServiceError,
    TaskError,
    UmbelError,
)


def _subclasses(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


OWN = sorted(
    (cls for cls in {UmbelError, *_subclasses(UmbelError)} if cls.__module__ == errors.__name__),
    key=lambda cls: cls.__name__,
)
TABLES = HTTP_STATUS, TASK_CODES, STATE_CODES, STREAM_CODES
KNOWN = {code for table in TABLES for code in table}


@pytest.mark.parametrize("code", sorted(HTTP_STATUS))
def test_every_code_of_the_api_becomes_the_error_of_its_status(code: str) -> None:
    error = errors.service_error(HTTP_STATUS[code], code, "text", {"a": 1})
    assert (error.code, error.status, error.message, error.details) == (
        code,
        HTTP_STATUS[code],
        "text",
        {"a": 1},
    )
    default = type(error).default_code
    assert HTTP_STATUS[default] // 100 == HTTP_STATUS[code] // 100


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 418, 422, 429, 500, 502, 503, 507])
def test_every_http_status_has_an_error(status: int) -> None:
    assert isinstance(errors.service_error(status, "SOMETHING_NEW", "text"), ServiceError)


@pytest.mark.parametrize("cls", [c for c in OWN if issubclass(c, ServiceError)], ids=lambda c: c.__name__)
def test_service_errors_have_a_default_code_with_a_status(cls: type[ServiceError]) -> None:
    assert cls.default_code in HTTP_STATUS


@pytest.mark.parametrize("cls", OWN, ids=lambda c: c.__name__)
def test_errors_survive_pickling(cls: type[UmbelError]) -> None:
    error = cls("what happened", details={"id": "x"})
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


def test_a_task_error_keeps_its_task_and_traceback() -> None:
    error = TaskError("no", code="TIMEOUT", task_id="t1", traceback="Traceback ...")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.task_id, copy.traceback, copy.code) == ("t1", "Traceback ...", "TIMEOUT")


def test_no_code_means_two_things() -> None:
    assert len(KNOWN) == sum(map(len, TABLES))


def test_every_code_in_use_is_in_the_tables() -> None:
    """Every ``code="..."`` argument and every ``default_code = "..."`` of the sources."""
    unknown = []
    for module, file in all_modules():
        for node in ast.walk(tree(file)):
            for value in _code_values(node):
                if value not in KNOWN:
                    unknown.append(f"{module}: {value}")
    assert not unknown, "add these to umbel.protocol.errors, with a status or a meaning: " + ", ".join(
        unknown
    )


def _code_values(node: ast.AST) -> Iterator[str]:
    values: list[ast.expr] = []
    if isinstance(node, ast.keyword) and node.arg == "code":
        values.append(node.value)
    elif isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "default_code" for t in node.targets):
        values.append(node.value)
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value.isupper():
            yield value.value
