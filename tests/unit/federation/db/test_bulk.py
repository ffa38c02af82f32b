"""Statements for many rows on PostgreSQL: the SQL and its parameters. Contract tests run them."""

from __future__ import annotations

import pytest
from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import psycopg

from federation.db.bulk import BulkStatement, array
from federation.db.tables import blobs, loads, tasks


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1, -2, 3], "{1,-2,3}"),
        ([1, None, 2.5], "{1,NULL,2.5}"),
        ([None, None], "{NULL,NULL}"),
        (["a", None, "NULL", ""], '{"a",NULL,"NULL",""}'),
        (["{,}", 'say "hi"', "back\\slash", "ü\n"], '{"{,}","say \\"hi\\"","back\\\\slash","ü\n"}'),
        ([], "{}"),
    ],
)
def test_arrays_are_written_as_postgresql_reads_them(values: list[object], text: str) -> None:
    assert array(values) == text


def _bulk(statement: object, columns: list[str] | None = None) -> BulkStatement | None:
    compiled = statement.compile(dialect=psycopg.dialect(), column_keys=columns)  # type: ignore[attr-defined]
    return BulkStatement.of(compiled)


def test_an_insert_sends_equal_values_once() -> None:
    bulk = _bulk(insert(loads).inline(), ["endpoint_no", "user_no", "live"])
    assert bulk is not None
    sql, parameters = bulk.prepare({}, ["endpoint_no", "user_no", "live"], [(7, 1, 5), (7, 2, 5), (7, 3, 6)])
    assert sql == (
        "INSERT INTO loads (endpoint_no, user_no, live) "
        'SELECT %(endpoint_no)s::BIGINT, each_row."user_no", each_row."live" '
        'FROM unnest(%(user_no)s::BIGINT[], %(live)s::INTEGER[]) AS each_row("user_no", "live")'
    )
    assert parameters == {"endpoint_no": 7, "user_no": "{1,2,3}", "live": "{5,5,6}"}


def test_an_insert_of_equal_rows_inserts_all_of_them() -> None:
    bulk = _bulk(insert(loads).inline(), ["endpoint_no", "user_no", "live"])
    assert bulk is not None
    sql, parameters = bulk.prepare({}, ["endpoint_no", "user_no", "live"], [(1, 2, 3)] * 2)
    assert "unnest(%(endpoint_no)s::BIGINT[])" in sql
    assert parameters == {"endpoint_no": "{1,1}", "user_no": 2, "live": 3}


def test_an_update_looks_its_rows_up_by_number() -> None:
    statement = (
        update(tasks)
        .values(state=bindparam("v_state"), wall=bindparam("v_wall"), bundle_no=None)
        .where(tasks.c.no == bindparam("v_no"), tasks.c.state == "dispatched")
    )
    bulk = _bulk(statement)
    assert bulk is not None
    sql, parameters = bulk.prepare(
        {"bundle_no": None, "state_1": "dispatched"},
        ["v_state", "v_wall", "v_no"],
        [("running", 0.5, 3), ("running", 1.5, 4)],
    )
    assert sql == (
        "UPDATE tasks SET state=%(v_state)s::VARCHAR, bundle_no=%(bundle_no)s::BIGINT, "
        'wall=each_row."v_wall" '
        'FROM unnest(%(v_wall)s::FLOAT[], %(v_no)s::BIGINT[]) AS each_row("v_wall", "v_no") '
        'WHERE tasks.no = ANY(%(v_no)s::BIGINT[]) AND tasks.no = each_row."v_no" '
        "AND tasks.state = %(state_1)s::VARCHAR"
    )
    assert parameters["v_no"] == "{3,4}" and parameters["v_state"] == "running"


@pytest.mark.parametrize(
    "statement",
    [
        # a row may be affected twice
        postgresql.insert(loads).on_conflict_do_nothing(),
        # bytes have no short text form
        insert(blobs).inline(),
        update(loads).values(live=bindparam("v_live")).where(loads.c.user_no == bindparam("v_user")),
        select(loads),
    ],
)
def test_other_statements_run_once_per_row(statement: object) -> None:
    assert _bulk(statement) is None
