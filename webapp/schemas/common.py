"""Schemas and helpers that several resources share: errors, pages, descriptions."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from federation.registry.pagination import DEFAULT_LIMIT, MAX_LIMIT


def about(description: str, **more: Any) -> dict[str, Any]:
    """Return the metadata of a field: its description, and ``more`` keywords of its JSON schema."""
    return {"description": description, **more}


def time_field(what: str, *, null: str = "") -> fields.Float:
    """Return a field of a response for a point in time. ``null``: what null means; "": it is never null."""
    text = f"{what}, in seconds since 1970-01-01 UTC{f'; null: {null}' if null else ''}."
    return fields.Float(required=True, allow_none=bool(null), metadata=about(text))


def started_field(kind: type[fields.Boolean] = fields.Boolean) -> fields.Boolean:
    """Return the field of a cancellation that says whether running tasks are cancelled, too.

    ``kind``: StrictBoolean in a body; parameters of a query are strings.
    """
    text = "false: tasks that run, or may have just started, continue."
    return kind(load_default=True, metadata=about(text))


class Cancelled(Schema):
    """Result of a cancellation of several tasks."""

    cancelled = fields.Integer(required=True, metadata=about("Number of tasks that were cancelled."))


class Error(Schema):
    """An error: ``code`` is for programs, ``message`` for people."""

    code = fields.String(
        required=True, metadata=about("Error code for programs; never changes.", example="FUNCTION_NOT_FOUND")
    )
    message = fields.String(
        required=True, metadata=about("What happened and what to do next, in English; may change.")
    )
    details = fields.Dict(
        required=True, metadata=about("Values related to the error, by name; may be empty.")
    )


class PageQuery(Schema):
    """Which page of a list."""

    limit = fields.Integer(
        load_default=DEFAULT_LIMIT,
        validate=validate.Range(1, MAX_LIMIT),
        metadata=about(f"Maximum number of items per page, 1 to {MAX_LIMIT}."),
    )
    cursor = fields.String(
        validate=validate.Regexp(r"[0-9a-f]{1,16}\Z"),
        metadata=about("Value of `next` in the previous page.", pattern="^[0-9a-f]{1,16}$"),
    )


def page_of(item: type[Schema]) -> type[Schema]:
    """Return the schema of one page of a list of ``item``."""
    attributes: dict[str, Any] = {
        "items": fields.List(
            fields.Nested(item), required=True, metadata=about("Items of the page, newest first.")
        ),
        "next": fields.String(
            required=True,
            allow_none=True,
            metadata=about("`cursor` of the next page; null: this is the last page."),
        ),
    }
    return type(f"{item.__name__}Page", (Schema,), attributes)


def page(found: tuple[list[dict[str, Any]], str | None]) -> dict[str, Any]:
    """Return a page as the API shows it."""
    items, following = found
    return {"items": items, "next": following}
