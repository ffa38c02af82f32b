"""What the schemas of the API accept as a cursor is one for the lists."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.ledger import task_list
from federation.registry.pagination import decode_cursor
from umbel.protocol.errors import BadRequest
from webapp.schemas.common import PageQuery
from webapp.schemas.tasks import TaskQuery


@pytest.mark.parametrize(
    "schema, decode", [(PageQuery, decode_cursor), (TaskQuery, task_list.decode)], ids=["rows", "tasks"]
)
def test_a_cursor_that_the_schema_accepts_is_valid(
    schema: type[PageQuery], decode: Callable[[str], object]
) -> None:
    field = schema().fields["cursor"]

    @settings(max_examples=200, deadline=None)
    @given(st.from_regex(field.metadata["pattern"]))
    def check(cursor: str) -> None:
        accepted = not schema().validate({"cursor": cursor})
        valid = False
        with contextlib.suppress(BadRequest):
            decode(cursor)
            valid = True
        # Python's "$" also matches before a newline at the end, which no pattern of JSON Schema does
        assert valid or not accepted
        assert accepted or cursor.endswith("\n")

    check()


def test_a_cursor_of_a_list_of_tasks_is_accepted() -> None:
    for created in (2.0, 1.8e9, 1e11):
        assert not TaskQuery().validate({"cursor": task_list.encode((created, 3, 5))})
