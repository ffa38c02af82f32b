"""The document, the page that shows it, and the headers of every answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flask.testing import FlaskClient

from tests.support.service import open_recording
from webapp.app import create_app


@pytest.fixture
def client(tmp_path: Path) -> Iterator[FlaskClient]:
    fed, _ = open_recording(tmp_path)
    yield create_app(fed, cast(Any, SimpleNamespace())).test_client()
    fed.close()


class Links(HTMLParser):
    """Collects everything in a page that a browser would load, follow or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.forbidden: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src", "action", "data"):
                self.found.append(value or "")
            if name == "id" and value:
                self.ids.add(value)
            if name == "style" or name.startswith("on"):
                self.forbidden.append(f"{tag} {name}")
        if tag in ("script", "style", "iframe", "object", "base"):
            self.forbidden.append(tag)


def test_the_docs_page_needs_nothing_from_elsewhere_and_keeps_to_its_policy(client: FlaskClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200 and page.content_type.startswith("text/html")
    links = Links()
    links.feed(page.text)
    assert links.forbidden == []
    for link in links.found:
        if link.startswith("#"):
            assert link[1:] in links.ids
        else:
            assert link.startswith("/") and not link.startswith("//")
            assert link == "/health" or client.get(link, buffered=True).status_code == 200
    style = client.get("/static/docs.css", buffered=True).text
    assert "url(" not in style and "@import" not in style


def test_the_docs_page_shows_every_operation(client: FlaskClient) -> None:
    document, page = client.get("/openapi.json").json, unescape(client.get("/docs").text)
    assert document
    for path, item in document["paths"].items():
        for method in set(item) - {"parameters"}:
            assert item[method]["summary"] in page and path in page
    for name in ("SubmissionIn", "OptionsIn", "max_attempts", "Credentials", "Result"):
        assert name in page
    assert "must be" not in page and "Undefined" not in page


def test_the_document_is_openapi_31_and_complete(client: FlaskClient) -> None:
    document: Any = client.get("/openapi.json").json
    assert document["openapi"] == "3.1.0"
    assert document["security"] == [{"token": []}]
    for path, item in document["paths"].items():
        for method in set(item) - {"parameters"}:
            operation = item[method]
            where = f"{method} {path}"
            assert operation["summary"] and operation["operationId"], where
            assert not operation["summary"].endswith("."), where
            assert (operation.get("security") == []) == (not path.startswith("/v1")), where
            assert "default" in operation["responses"], where
            for name in re.findall(r"{(\w+)}", path):
                parameters = item.get("parameters", []) + operation.get("parameters", [])
                assert name in [p.get("name") for p in parameters if p.get("description")], where
    names = [
        op["operationId"]
        for item in document["paths"].values()
        for m, op in item.items()
        if m != "parameters"
    ]
    assert len(set(names)) == len(names)


def test_every_field_and_parameter_has_a_description(client: FlaskClient) -> None:
    document: Any = client.get("/openapi.json").json
    for name, schema in document["components"]["schemas"].items():
        for field, value in schema.get("properties", {}).items():
            assert value.get("description", "").endswith("."), f"{name}.{field}"
    for path, item in document["paths"].items():
        for method in set(item) - {"parameters"}:
            for parameter in item[method].get("parameters", []):
                if "$ref" not in parameter:
                    described = parameter.get("description") or parameter["schema"].get("description", "")
                    assert described.endswith("."), f"{method} {path}: {parameter['name']}"


def test_every_string_and_list_that_comes_in_is_bounded(client: FlaskClient) -> None:
    document: Any = client.get("/openapi.json").json
    schemas = document["components"]["schemas"]
    incoming = ["FunctionIn", "EndpointIn", "EndpointChange", "SubmissionIn", "OptionsIn"]
    bounded = ("maxLength", "pattern", "enum", "$ref")
    for name in incoming:
        assert schemas[name]["additionalProperties"] is False, name
        for field, schema in schemas[name]["properties"].items():
            kinds = schema.get("type", [])
            if "string" in kinds:
                assert any(key in schema for key in bounded), f"{name}.{field}"
            if "array" in kinds:
                assert "maxItems" in schema, f"{name}.{field}"


@pytest.mark.parametrize("path", ["/v1/whoami", "/nowhere", "/docs", "/static/docs.css", "/version"])
def test_every_answer_carries_the_security_headers(client: FlaskClient, path: str) -> None:
    headers = client.get(path, buffered=True).headers
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert (headers.get("Cache-Control") == "no-store") == path.startswith("/v1")
    assert "Set-Cookie" not in headers and "Access-Control-Allow-Origin" not in headers


def test_the_root_leads_to_the_docs(client: FlaskClient) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/docs")


def test_https_is_asked_for_only_where_there_is_https(client: FlaskClient) -> None:
    assert "Strict-Transport-Security" not in client.get("/version").headers
    assert "Strict-Transport-Security" in client.get("/version", base_url="https://localhost").headers
