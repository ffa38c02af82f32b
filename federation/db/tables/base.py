"""Column and index helpers that all tables share."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, MetaData, text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite assigns row numbers automatically only in a column of type INTEGER
Number = BigInteger().with_variant(Integer, "sqlite")


def no() -> Column[int]:
    """Return the primary key column: an automatic row number."""
    return Column("no", Number, primary_key=True, autoincrement=True)


def ref(name: str, target: str, **options: object) -> Column[int]:
    """Return a foreign key column: the row number in another table."""
    return Column(name, Number, ForeignKey(f"{target}.no"), **options)  # type: ignore[arg-type]


def partial(name: str, where: str, *columns: object) -> None:
    """Create an index on the rows that ``where`` selects."""
    Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))  # type: ignore[arg-type]
