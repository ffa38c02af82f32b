"""The OpenAPI document and an HTML page of it, which loads nothing from other servers."""

from __future__ import annotations

import json
from typing import Any

from flask import Flask, Response, redirect, render_template
from werkzeug.wrappers import Response as BaseResponse

from .auth import open_to_all

_METHODS = ("get", "post", "put", "patch", "delete")


def install(app: Flask, document: dict[str, Any]) -> None:
    """Serve ``document`` at /openapi.json and as HTML at /docs."""
    text = json.dumps(document, indent=1)
    shown = {"document": document, "sections": sections(document)}

    @app.get("/openapi.json")
    @open_to_all
    def openapi() -> Response:
        return Response(text, mimetype="application/json")

    @app.get("/docs")
    @open_to_all
    def docs() -> str:
        return render_template("docs.html", **shown)

    @app.get("/")
    @open_to_all
    def root() -> BaseResponse:
        return redirect("/docs")


def sections(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the operations by tag, each with what the page and the manual show of it."""
    found = [{**tag, "operations": []} for tag in document["tags"]]
    by_name = {section["name"]: section for section in found}
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                operation = _operation(document, path, method, item)
                by_name[item[method]["tags"][0]]["operations"].append(operation)
    return found


def _operation(document: dict[str, Any], path: str, method: str, item: dict[str, Any]) -> dict[str, Any]:
    operation = item[method]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    return {
        "method": method.upper(),
        "path": path,
        "anchor": f"{method}{path.replace('/', '-')}",
        "summary": operation.get("summary", ""),
        "description": operation.get("description", ""),
        "open": operation.get("security") == [],
        "parameters": [
            _parameter(_resolved(document, p))
            for p in item.get("parameters", []) + operation.get("parameters", [])
        ],
        "body": _shapes(document, body) if body else [],
        "answers": [
            {"status": status, "description": answer["description"], "shapes": _answer(document, answer)}
            for status, answer in _answers(document, operation)
        ],
    }


def _parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    """A parameter with its type and description in words."""
    schema = parameter.get("schema", {})
    about = parameter.get("description") or schema.get("description", "")
    return {**parameter, "type": _type(schema), "about": about}


def _answers(document: dict[str, Any], operation: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = [(status, _resolved(document, answer)) for status, answer in operation["responses"].items()]
    return sorted((pair for pair in found if pair[0] != "default"), key=lambda pair: pair[0])


def _answer(document: dict[str, Any], answer: dict[str, Any]) -> list[dict[str, Any]]:
    schema = answer.get("content", {}).get("application/json", {}).get("schema")
    return _shapes(document, schema) if schema else []


def _resolved(document: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in value:
        return value
    found: Any = document
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def _shapes(document: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the description of a schema and of the schemas of its fields."""
    fields = _resolved(document, schema).get("properties", {}).values()
    inner = [part for field in fields for part in (field, field.get("items", {})) if "$ref" in part]
    return [shape(document, part) for part in (schema, *inner)]


def shape(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return name, description and fields of an object's schema."""
    name = schema.get("$ref", "").rpartition("/")[2]
    full = _resolved(document, schema)
    required = full.get("required", [])
    fields = [
        {
            "name": field,
            "type": _type(value),
            "required": field in required,
            "about": _resolved(document, value).get("description", ""),
        }
        for field, value in full.get("properties", {}).items()
    ]
    return {"name": name, "about": full.get("description", ""), "fields": fields}


def _type(value: dict[str, Any]) -> str:
    if "$ref" in value:
        return str(value["$ref"]).rpartition("/")[2]
    if "anyOf" in value:
        return " or ".join(map(_type, value["anyOf"]))
    kinds = value.get("type", "object")
    text = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    if "array" in text and "items" in value:
        text = text.replace("array", f"list of {_type(value['items'])}")
    if "enum" in value:
        text += ": " + ", ".join(map(str, value["enum"]))
    bounds = [f"{word} {value[key]}" for key, word in _BOUNDS.items() if value.get(key) not in (None, "")]
    return f"{text} ({', '.join(bounds)})" if bounds else text


_BOUNDS = {
    "format": "format",
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "minLength": "min. length",
    "maxLength": "max. length",
    "minItems": "min. items",
    "maxItems": "max. items",
    "default": "default",
}
