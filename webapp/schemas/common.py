"""What several resources share: errors, pages."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from federation.registry.pagination import DEFAULT_LIMIT, MAX_LIMIT

#: Ids, hashes and free objects as answers show them.
TIME = "Seconds since 1970, UTC."


class Error(Schema):
    """An error: ``code`` is for programs, ``message`` for people, ``details`` holds the values behind it."""

    code = fields.String(required=True, metadata={"example": "FUNCTION_NOT_FOUND"})
    message = fields.String(required=True)
    details = fields.Dict(required=True)


class PageQuery(Schema):
    """Which page of a list."""

    limit = fields.Integer(
        load_default=DEFAULT_LIMIT,
        validate=validate.Range(1, MAX_LIMIT),
        metadata={"description": "Most items of the page."},
    )
    cursor = fields.String(
        validate=validate.Regexp(r"[0-9a-f]{1,16}\Z"),
        metadata={"description": "The `next` of the page before.", "pattern": "^[0-9a-f]{1,16}$"},
    )


def page_of(item: type[Schema]) -> type[Schema]:
    """The schema of one page of a list of ``item``."""
    attributes: dict[str, Any] = {
        "items": fields.List(fields.Nested(item), required=True),
        "next": fields.String(
            required=True,
            allow_none=True,
            metadata={"description": "`cursor` of the next page; null: this is the last."},
        ),
    }
    return type(f"{item.__name__}Page", (Schema,), attributes)


def page(found: tuple[list[dict[str, Any]], str | None]) -> dict[str, Any]:
    """A page as the API shows it."""
    items, following = found
    return {"items": items, "next": following}
