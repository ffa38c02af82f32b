"""Directive ``openapi``: every operation and object of the REST API, from the application's own document."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from federation.config.settings import Settings
from umbel.protocol.errors import HTTP_STATUS
from webapp import pages
from webapp.app import create_app

Record = dict[str, Any]

_CODE = re.compile(r"\b(" + "|".join(sorted(HTTP_STATUS, key=len, reverse=True)) + r")\b")


def document() -> Record:
    """Return the OpenAPI document that ``/openapi.json`` serves; needs neither database nor broker."""
    with tempfile.TemporaryDirectory() as home:
        federation = SimpleNamespace(settings=Settings(home=Path(home)), broker=None)
        app = create_app(cast(Any, federation), cast(Any, SimpleNamespace()))
        return dict(app.test_client().get("/openapi.json").get_json())


class Reference:
    """Writes the document as reStructuredText."""

    def __init__(self, document: Record):
        self._document = document
        schemas, text = document["components"]["schemas"], json.dumps(document)
        self._names = [name for name in schemas if f'"#/components/schemas/{name}"' in text]
        self._name = re.compile(r"\b(" + "|".join(sorted(self._names, key=len, reverse=True)) + r")\b")

    def lines(self) -> Iterator[str]:
        """Yield the lines: a section for each tag with its operations, then one for the objects."""
        for section in pages.sections(self._document):
            yield from _heading(section["name"].capitalize(), "-")
            yield from (_markup(section["description"]), "")
            for operation in section["operations"]:
                yield from self._operation(operation)
        yield from _heading("Objects", "-")
        yield from ("Fields marked *required* are always present.", "")
        for name in self._names:
            shape = pages.shape(self._document, {"$ref": f"#/components/schemas/{name}"})
            yield from (f".. _rest-{name.lower()}:", "", *_heading(name, "~"))
            yield from (_markup(shape["about"]), "", *self._fields(shape["fields"]))

    def _operation(self, operation: Record) -> Iterator[str]:
        title = f"{operation['method']} {operation['path']}"
        yield from (f".. _{operation['anchor']}:", "", *_heading(title, "~"))
        text = f"{operation['summary']}. {operation['description']}"
        yield from (_markup(text + (" Needs no token." if operation["open"] else "")), "")
        if operation["parameters"]:
            yield from ("**Parameters**", "", *self._parameters(operation["parameters"]))
        if operation["body"]:
            yield from (f"**Body**: {self._linked(operation['body'][0]['name'])}", "")
        yield from ("**Responses**", "")
        for answer in operation["answers"]:
            yield f"* ``{answer['status']}`` {self._answer(answer)}"
        yield ""

    def _answer(self, answer: Record) -> str:
        status, text = answer["status"], str(answer["description"])
        if status == "422":
            text = "VALIDATION_ERROR"
        text = _CODE.sub(r":errorcode:`\1`", text)
        if answer["shapes"] and status < "400":
            text = f"{text.rstrip('.')} ({self._linked(answer['shapes'][0]['name'])})"
        return text

    def _parameters(self, parameters: Iterable[Record]) -> Iterator[str]:
        rows = (
            (f"``{p['name']}``", f"{p['in']}, {p['type']}", p.get("required", False), p["about"])
            for p in parameters
        )
        yield from self._table(("Name", "In, type", "Description"), rows)

    def _fields(self, fields: Iterable[Record]) -> Iterator[str]:
        rows = ((f"``{f['name']}``", f["type"], f["required"], f["about"]) for f in fields)
        yield from self._table(("Field", "Type", "Description"), rows)

    def _table(
        self, titles: tuple[str, str, str], rows: Iterable[tuple[str, str, bool, str]]
    ) -> Iterator[str]:
        rows = list(rows)
        if not rows:
            return
        yield from (".. list-table::", "   :header-rows: 1", "   :widths: 20 35 45", "")
        yield from (f"   * - {titles[0]}", f"     - {titles[1]}", f"     - {titles[2]}")
        for name, kind, required, about in rows:
            yield f"   * - {name}"
            yield f"     - {self._linked(kind)}{', *required*' if required else ''}"
            yield f"     - {_markup(about)}"
        yield ""

    def _linked(self, text: str) -> str:
        """The text with names of objects as links."""
        return self._name.sub(lambda name: f":ref:`{name[1]} <rest-{name[1].lower()}>`", text)


def _markup(text: str) -> str:
    """One line of reStructuredText from the document's prose, where `code` stands in single backticks."""
    text = " ".join(text.split()).replace("*", r"\*")
    return re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", text)


def _heading(title: str, line: str) -> list[str]:
    return [title, line * len(title), ""]


class OpenApi(SphinxDirective):
    """The whole reference."""

    def run(self) -> list[nodes.Node]:
        """Return the sections. The page is read again in each build: the application may have changed."""
        self.env.note_reread()
        text = "\n".join(Reference(document()).lines())
        return list(self.parse_text_to_nodes(text, allow_section_headings=True))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("openapi", OpenApi)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
