"""The reference in ``docs/reference`` is built from the code and is complete."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import fields
from enum import Enum
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import click
import pytest
from flask import Flask

import umbel
from endpoint_worker.cli import main as endpoint_cli
from federation import __main__ as federation_cli
from federation.config.settings import Settings
from federation.db.options import Options as StoredOptions
from federation.provision.cli import manage
from tests.architecture.sources import ROOT
from umbel import serialize, testing
from umbel.api.options import Options
from umbel.cli import main as user_cli
from umbel.futures import UmbelFuture
from umbel.protocol import limits
from umbel.protocol.errors import (
    HTTP_STATUS,
    STATE_CODES,
    STREAM_CODES,
    TASK_CODES,
    UmbelError,
    service_error,
)
from webapp.app import create_app

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
#: Classes whose public methods are part of the API, by the name under which the reference shows them.
CLASSES: dict[str, type] = {
    "umbel.Client": umbel.Client,
    "umbel.Environment": umbel.Environment,
    "umbel.Executor": umbel.Executor,
    "umbel.MPIFunction": umbel.MPIFunction,
    "umbel.ShellFunction": umbel.ShellFunction,
    "umbel.ShellResult": umbel.ShellResult,
    "umbel.api.options.Options": Options,
    "umbel.futures.UmbelFuture": UmbelFuture,
    "umbel.testing.LocalService": testing.LocalService,
}
#: Modules that define the exceptions of the SDK.
EXCEPTION_MODULES = ("umbel.protocol.errors", "umbel.exceptions", "umbel.shell")


class Built(NamedTuple):
    """The built manual: its directory, and names of objects by kind, such as ``py:method``."""

    folder: Path
    objects: dict[str, set[str]]

    @property
    def python(self) -> set[str]:
        """Names of all Python objects."""
        return {name for kind, names in self.objects.items() if kind.startswith("py:") for name in names}

    def page(self, name: str) -> str:
        """The text of a page of the reference, without markup."""
        html = (self.folder / "reference" / f"{name}.html").read_text(encoding="utf-8")
        return unescape(re.sub(r"<[^>]+>", "", html))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build the manual as ``make docs`` does: a warning is an error."""
    folder = tmp_path_factory.mktemp("manual")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d"]
    done = subprocess.run(
        [*command, str(folder / "doctrees"), str(DOCS), str(folder / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Built(folder / "html", _objects(folder / "html" / "objects.inv"))


def _objects(file: Path) -> dict[str, set[str]]:
    """Names by kind from Sphinx's inventory: four lines of head, then compressed lines ``name kind …``."""
    data = zlib.decompress(file.read_bytes().split(b"\n", 4)[4]).decode()
    found: dict[str, set[str]] = {}
    for line in data.splitlines():
        match = re.fullmatch(r"(.+?)\s+(\S+:\S+)\s+-?\d+\s+\S*\s+.*", line)
        assert match, line
        found.setdefault(match[2], set()).add(match[1])
    return found


def _methods(name: str, cls: type) -> dict[str, Any]:
    """Public methods and properties that ``cls`` gets from this project, by their full name."""
    found = {}
    for parent in cls.__mro__:
        if parent.__module__.startswith("umbel"):
            for attribute, value in vars(parent).items():
                function = getattr(value, "__func__", value)
                if not attribute.startswith("_") and isinstance(value, property | classmethod | staticmethod):
                    found.setdefault(f"{name}.{attribute}", function)
                elif not attribute.startswith("_") and inspect.isfunction(value):
                    found.setdefault(f"{name}.{attribute}", function)
    return found


def _exceptions() -> dict[str, type]:
    """Every exception of the SDK by its public name."""
    found = {}
    for module in map(importlib.import_module, EXCEPTION_MODULES):
        for name, value in vars(module).items():
            if (
                isinstance(value, type)
                and issubclass(value, UmbelError)
                and value.__module__ == module.__name__
            ):
                found["umbel." + name if name in umbel.__all__ else f"{module.__name__}.{name}"] = value
    return found


def _public() -> dict[str, Any]:
    """Everything that the reference of the SDK must show, by its full name."""
    found: dict[str, Any] = {f"umbel.{name}": getattr(umbel, name) for name in umbel.__all__}
    for module in (serialize, testing):
        found.update({f"{module.__name__}.{name}": getattr(module, name) for name in module.__all__})
    found.update(CLASSES)
    for name, cls in CLASSES.items():
        found.update(_methods(name, cls))
    found.update(_exceptions())
    return found


def test_every_public_name_is_in_the_reference(built: Built) -> None:
    assert len(_public()) > 100
    assert sorted(set(_public()) - built.python) == []


def test_every_public_name_has_a_docstring() -> None:
    undocumented = [
        name
        for name, value in _public().items()
        if name != "umbel.__version__" and not (getattr(value, "__doc__", None) or "").strip()
    ]
    assert undocumented == []


def test_no_exception_of_the_sdk_is_defined_elsewhere() -> None:
    def below(cls: type) -> Iterator[type]:
        yield cls
        for child in cls.__subclasses__():
            yield from below(child)

    known = set(_exceptions().values())
    elsewhere = [
        cls.__name__
        for cls in below(UmbelError)
        if cls.__module__.startswith("umbel") and cls not in known and not cls.__name__.startswith("_")
    ]
    # raised by a transport that was closed, and caught by the SDK itself
    assert set(elsewhere) <= {"TransportClosed"}


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            if not child.hidden:
                yield from _commands(child, f"{path} {name}")


@pytest.mark.parametrize("program", ["umbel", "umbel-endpoint"])
def test_every_command_and_option_is_in_the_reference(built: Built, program: str) -> None:
    main = {"umbel": user_cli.main, "umbel-endpoint": endpoint_cli.main}[program]
    page, shown = built.page("commands"), built.objects["std:cmdoption"]
    commands = list(_commands(main, program))
    assert len(commands) > 8
    for path, command in commands:
        assert f"{path} [OPTIONS]" in page, path
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert f"{path.replace(' ', '-')}.{option.opts[0]}" in shown, f"{path} {option.opts[0]}"


def test_every_command_of_the_server_is_in_the_reference(built: Built) -> None:
    page = built.page("commands")
    for command in federation_cli.MODULES:
        assert f"usage: python -m federation {command} [-h]" in page
    for command in (*manage.COMMANDS, "simulate", "wheelhouse"):
        assert f"usage: python -m federation provision {command} [-h]" in page
    assert "usage: python -m webapp.serve [-h]" in page


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    """The web application, without a database or broker behind it."""
    home = tmp_path_factory.mktemp("home")
    federation = SimpleNamespace(settings=Settings(home=home), broker=None)
    return create_app(cast(Any, federation), cast(Any, SimpleNamespace()))


@pytest.fixture(scope="module")
def document(app: Flask) -> dict[str, Any]:
    """The OpenAPI document."""
    return dict(app.test_client().get("/openapi.json").get_json())


def test_every_route_is_in_the_reference_and_no_other(built: Built, app: Flask) -> None:
    served = {
        f"{method} {path}"
        for rule in app.url_map.iter_rules()
        for path in [re.sub(r"<(?:[^<>]*:)?([^<>:]+)>", r"{\1}", rule.rule)]
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static"
    }
    html = (built.folder / "reference" / "rest.html").read_text(encoding="utf-8")
    shown = set(re.findall(r"<h3>((?:GET|POST|PUT|PATCH|DELETE) [^<]+)<", html))
    assert shown | {"GET /", "GET /openapi.json", "GET /docs"} == served


def test_every_object_of_the_document_is_in_the_reference(built: Built, document: dict[str, Any]) -> None:
    labels = built.objects["std:label"]
    used = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert len(used) > 30
    assert not [name for name in used if f"rest-{name.lower()}" not in labels]


def test_every_option_of_a_submission_is_in_the_reference(built: Built, document: dict[str, Any]) -> None:
    options = document["components"]["schemas"]["OptionsIn"]["properties"]
    assert set(options) == {field.name for field in fields(StoredOptions)}
    assert set(options) == {field.name for field in fields(Options)}
    html = (built.folder / "reference" / "rest.html").read_text(encoding="utf-8")
    section = html.partition("<h3>OptionsIn<")[2].partition("</section>")[0]
    assert set(re.findall(r'<tr [^>]*><td><p><code [^>]*><span class="pre">(\w+)<', section)) == set(options)


def test_parameters_are_shown_with_bounds_and_defaults(built: Built) -> None:
    assert "query, integer (at least 1, at most 1000, default 100)" in built.page("rest")


def _examples() -> list[dict[str, Any]]:
    """The JSON of the guide."""
    text = (REFERENCE / "rest-guide.rst").read_text(encoding="utf-8")
    return [json.loads(block) for block in re.findall(r"\n\n( {4}\{\"(?:.+\n)+)", text)]


def test_the_json_of_the_guide_has_the_fields_of_the_api(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    submission, log, items, error = _examples()
    assert set(submission) <= set(schemas["SubmissionIn"]["properties"])
    assert set(submission) >= set(schemas["SubmissionIn"]["required"])
    assert set(submission["options"]) <= set(schemas["OptionsIn"]["properties"])
    for example, name in ((log, "Log"), (items, "Items"), (error, "Error")):
        assert set(example) == set(schemas[name]["properties"])


def test_the_operations_of_the_guide_exist(document: dict[str, Any]) -> None:
    text = " ".join((REFERENCE / "rest-guide.rst").read_text(encoding="utf-8").split())
    text += " ".join((REFERENCE / "errors.rst").read_text(encoding="utf-8").split())
    shown = set(re.findall(r"``(GET|POST|PATCH|DELETE) (/[^`? ]*)", text))
    assert len(shown) > 7
    paths = {re.sub(r"{\w+}", "{id}", path): item for path, item in document["paths"].items()}
    assert not [
        f"{method} {path}"
        for method, path in shown
        if method.lower() not in paths.get(re.sub(r"{\w+}", "{id}", path), {})
    ]


def test_the_limits_of_the_guide_are_the_real_ones() -> None:
    text = " ".join((REFERENCE / "rest-guide.rst").read_text(encoding="utf-8").split())
    assert f"1 to {limits.MAX_CALLS_PER_SUBMISSION:,} calls" in text
    assert f"up to {limits.MAX_REQUEST_BYTES // 2**20} MiB" in text
    assert text.count(f"after ``wait`` seconds ({limits.MAX_WAIT:g} at most)") == 2
    codes = " ".join((REFERENCE / "errors.rst").read_text(encoding="utf-8").split())
    assert f"exceeds {limits.MAX_REQUEST_BYTES // 2**20} MiB" in codes
    assert f"function exceed {limits.MAX_FUNCTION_BYTES // 2**20} MiB" in codes
    assert f"item exceeds {limits.MAX_PAYLOAD_BYTES // 2**20} MiB" in codes
    assert f"{limits.MAX_STREAM_BYTES // 2**20} MiB or {limits.MAX_STREAM_ITEMS:,} items" in codes


def _entries() -> dict[str, dict[str, str]]:
    """Cause and cure by error code."""
    text = (REFERENCE / "errors.rst").read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = {}
    for code, entry in re.findall(r"^\.\. errorcode:: (\S+)\n\n((?:   .*\n)+)", text, re.MULTILINE):
        assert code not in found, f"{code} has two entries"
        parts = re.split(r"^   :(\w+):", entry, flags=re.MULTILINE)
        found[code] = {name: " ".join(value.split()) for name, value in zip(parts[1::2], parts[2::2])}
    return found


def test_every_error_code_has_a_cause_and_a_cure_and_no_other(built: Built) -> None:
    codes = {*HTTP_STATUS, *TASK_CODES, *STATE_CODES, *STREAM_CODES}
    assert set(_entries()) == codes
    assert built.objects["std:errorcode"] == codes
    for code, entry in _entries().items():
        assert list(entry) == ["Cause", "Cure"], code
        assert all(len(text) > 15 and text.endswith(".") for text in entry.values()), code


def test_every_error_code_is_shown_with_its_status_and_exception(built: Built) -> None:
    page = built.page("errors")
    for code, status in HTTP_STATUS.items():
        error = service_error(status, code, "text")
        assert f"{code} (HTTP {status}, {type(error).__name__})" in page
    html = (built.folder / "reference" / "errors.html").read_text(encoding="utf-8")
    headings = re.findall(r'<dt class="sig [^"]*" id="errorcode-(\w+)">(.*?)</dt>', html, re.DOTALL)
    unlinked = {code for code, heading in headings if 'href="python.html#umbel.' not in heading}
    assert len(headings) == len(_entries())
    assert unlinked == {"CANCELLED"}  # it is Python's own CancelledError


#: ``name`` or ``name (type)`` and a colon at the start of an entry of an ``Args:`` section.
_ENTRY = re.compile(r"^ {4}\*{0,2}(\w+)(?: \([^)]*\))?:", re.MULTILINE)


def _sections(docstring: str) -> dict[str, str]:
    """The sections of a Google style docstring by title, without the text before the first."""
    parts = re.split(r"^(Args|Returns|Yields|Raises|Attributes|Examples?|Notes?):\n", docstring, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def _gaps(name: str, value: Any) -> Iterator[str]:
    """Yield the parts of a signature that the docstring of a class or function does not describe."""
    if isinstance(value, property):
        return
    sections = _sections(inspect.getdoc(value) or "")
    signature = inspect.signature(value)
    described = {*_ENTRY.findall(sections.get("Args", "")), *_ENTRY.findall(sections.get("Attributes", ""))}
    parameters = [parameter for parameter in signature.parameters if parameter not in ("self", "cls")]
    for parameter in parameters:
        if parameter not in described:
            yield f"{name}: {parameter}"
    returns = None if isinstance(value, type) else signature.return_annotation
    result = returns not in (None, "None", signature.empty)
    if parameters and result and not {"Returns", "Yields"} & set(sections):
        yield f"{name}: Returns"


def _documented() -> Iterator[tuple[str, Any]]:
    """Everything public that has a signature of its own; most exceptions have that of UmbelError."""
    for name, value in _public().items():
        enumeration = isinstance(value, type) and issubclass(value, Enum)
        exception = isinstance(value, type) and issubclass(value, BaseException)
        if value is UmbelFuture:
            continue  # the constructor is not for programs
        if callable(value) and not enumeration and (not exception or "__init__" in vars(value)):
            yield name, value


def test_every_public_parameter_is_documented() -> None:
    gaps = [gap for name, value in _documented() for gap in _gaps(name, value)]
    assert gaps == [], f"{len(gaps)} gaps in docstrings:\n" + "\n".join(gaps)
