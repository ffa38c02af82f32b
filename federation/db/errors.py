"""The errors of the database, the same for SQLite and PostgreSQL.

``Database.read()`` and ``Database.write()`` raise them whatever fails: a statement, BEGIN, COMMIT, the
connection, or the wait for one. An error that is none of these is a bug and is raised as it is.
"""

from __future__ import annotations

import sqlite3
from types import TracebackType
from typing import NoReturn

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from umbel.protocol.errors import UmbelError

#: Maximum length of the driver's message in an error, characters.
MESSAGE_LENGTH = 500


class DatabaseError(UmbelError):
    """A transaction failed, and nothing was stored."""


class DatabaseUnavailable(DatabaseError):
    """The database cannot execute the transaction at present; the same transaction may succeed later.

    It is locked, restarting, read-only, unreachable or out of connections, or it resolved a deadlock. If the
    connection was lost during COMMIT, the transaction may have been committed.
    """

    default_code = "UNAVAILABLE"


class DatabaseDeadlock(DatabaseUnavailable):
    """The transaction was rolled back because of a deadlock or a concurrent update: repeat it."""


class DatabaseFull(DatabaseError):
    """The disk of the database is full."""

    default_code = "STORAGE_FULL"


class DatabaseRefused(DatabaseError):
    """The database rejects a value: the same transaction will never succeed."""

    default_code = "VALIDATION_ERROR"


class DatabaseConflict(DatabaseRefused):
    """A row conflicts with another row, or refers to a row that does not exist."""

    default_code = "CONFLICT"


#: Errors after which the same transaction may be repeated, once the database or its disk works again.
RETRYABLE = (DatabaseUnavailable, DatabaseFull)

#: SQLite's primary result codes.
_SQLITE: dict[int, type[DatabaseError]] = {
    3: DatabaseUnavailable,  # PERM
    4: DatabaseUnavailable,  # ABORT
    5: DatabaseUnavailable,  # BUSY
    6: DatabaseUnavailable,  # LOCKED
    8: DatabaseUnavailable,  # READONLY
    9: DatabaseUnavailable,  # INTERRUPT
    10: DatabaseUnavailable,  # IOERR
    13: DatabaseFull,  # FULL
    14: DatabaseUnavailable,  # CANTOPEN
    15: DatabaseUnavailable,  # PROTOCOL
    17: DatabaseUnavailable,  # SCHEMA
    18: DatabaseRefused,  # TOOBIG
    19: DatabaseConflict,  # CONSTRAINT
    20: DatabaseRefused,  # MISMATCH
    22: DatabaseUnavailable,  # NOLFS
    23: DatabaseUnavailable,  # AUTH
}
#: Words in SQLite's messages, for Python 3.10, which does not provide the codes.
_SQLITE_WORDS: dict[str, type[DatabaseError]] = {
    "is full": DatabaseFull,
    "too big": DatabaseRefused,
    "is locked": DatabaseUnavailable,
    "readonly": DatabaseUnavailable,
    "disk I/O error": DatabaseUnavailable,
    "unable to open": DatabaseUnavailable,
    "locking protocol": DatabaseUnavailable,
    "schema has changed": DatabaseUnavailable,
    "interrupted": DatabaseUnavailable,
    "authoriz": DatabaseUnavailable,
}
#: SQLSTATE of PostgreSQL, or its first two characters (the class).
_SQLSTATES: dict[str, type[DatabaseError]] = {
    "08": DatabaseUnavailable,  # connection
    "22": DatabaseRefused,  # data
    "23": DatabaseConflict,  # constraint
    "25006": DatabaseUnavailable,  # read-only, for example during a failover
    "25P03": DatabaseUnavailable,  # the transaction was idle for too long
    "28": DatabaseUnavailable,  # authorization
    "3D": DatabaseUnavailable,  # the database does not exist
    "40": DatabaseDeadlock,  # deadlock or serialization failure
    "40003": DatabaseUnavailable,  # it is unknown whether the transaction was committed
    "42501": DatabaseUnavailable,  # a privilege is missing
    "42P01": DatabaseUnavailable,  # a table is missing, for example while a backup is restored
    "53": DatabaseUnavailable,  # resources
    "53100": DatabaseFull,
    "54": DatabaseRefused,  # a limit of the server
    "55": DatabaseUnavailable,  # lock not available, object in use
    "57": DatabaseUnavailable,  # shutdown, crash, cancelled by the administrator
    "58": DatabaseUnavailable,  # input or output
}


class _Translated:
    """A context manager that raises the translation of an error of the driver or of SQLAlchemy."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is not None:
            translation = translate(error)
            if translation is not None:
                raise translation from error


translated = _Translated()


def translate(error: BaseException) -> DatabaseError | None:
    """Return the translation of an error of the driver or of SQLAlchemy; None for any other error."""
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable("the database has no free connection")
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    kind = None
    if isinstance(cause, sqlite3.Error):
        kind = _sqlite_kind(cause)
    elif type(cause).__module__.partition(".")[0] == "psycopg":
        kind = _postgresql_kind(cause)
    return None if kind is None else _made(kind, cause)


def translate_value_error(error: BaseException) -> DatabaseError | None:
    """Like ``translate``, for an error raised while a statement is executed.

    The drivers raise Python's own errors for integers that are too large and for text that is not Unicode.
    """
    if isinstance(error, (OverflowError, UnicodeEncodeError)):
        return _made(DatabaseRefused, error)
    return translate(error)


def raise_translated(error: Exception) -> NoReturn:
    """Raise the translation of an error raised while a statement was executed, or the error itself."""
    translation = translate_value_error(error)
    if translation is None:
        raise error
    raise translation from error


def _made(kind: type[DatabaseError], cause: BaseException) -> DatabaseError:
    what = " ".join(str(cause).split())[:MESSAGE_LENGTH]
    return kind(f"{_WORDS[kind]}: {what}")


_WORDS: dict[type[DatabaseError], str] = {
    DatabaseUnavailable: "the database is unavailable",
    DatabaseDeadlock: "the transaction conflicts with another one",
    DatabaseFull: "the disk of the database is full",
    DatabaseRefused: "the database rejected a value",
    DatabaseConflict: "the database rejected a conflicting row",
}


def _sqlite_kind(error: sqlite3.Error) -> type[DatabaseError] | None:
    code = getattr(error, "sqlite_errorcode", None)
    message = str(error)
    # a table is missing while a backup is restored
    if isinstance(error, sqlite3.OperationalError) and message.startswith("no such table"):
        return DatabaseUnavailable
    if code is not None:
        return _SQLITE.get(code & 0xFF)
    if isinstance(error, sqlite3.IntegrityError):
        return DatabaseConflict
    return next((kind for words, kind in _SQLITE_WORDS.items() if words in message), None)


def _postgresql_kind(error: BaseException) -> type[DatabaseError] | None:
    state = getattr(error, "sqlstate", None)
    if state:
        return _SQLSTATES.get(state) or _SQLSTATES.get(state[:2])
    names = {base.__name__ for base in type(error).__mro__}
    if "DataError" in names:
        return DatabaseRefused
    # without a code: the connection cannot be made, or is lost
    return DatabaseUnavailable if "OperationalError" in names else None
