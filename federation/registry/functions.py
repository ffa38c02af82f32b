"""Functions: serialized bodies that the service stores and never deserializes.

A function is immutable. The same body of the same owner is the same function; a changed body is a new one.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import Connection, Row
from sqlalchemy import delete as drop
from sqlalchemy import func, insert, select, update

from umbel.protocol import limits, names
from umbel.protocol.environment import local_of_function, of_function
from umbel.protocol.errors import BadRequest, NotFound, TooLarge
from umbel.protocol.run_options import limits_of_function

from ..context import Federation
from ..db.tables import functions, samples
from . import pagination
from .users import User

#: Interval at which the use of a function is recorded, seconds.
USE_INTERVAL = 86400.0
_f = functions.c
_COLUMNS = (_f.no, _f.id, _f.name, _f.description, _f.sha256, _f.size, _f.created, _f.environment, _f.limits)


def register(
    fed: Federation, user: User, *, name: str, body: bytes, source: str | None = None, description: str = ""
) -> dict[str, Any]:
    """Store a function and return its description; see ``ensure``."""
    return ensure(fed, user, name=name, body=body, source=source, description=description)[0]


def ensure(
    fed: Federation, user: User, *, name: str, body: bytes, source: str | None = None, description: str = ""
) -> tuple[dict[str, Any], bool]:
    """Return the description of the user's function with this body, and whether it was created now.

    An existing function does not change; the passed name, source and description are ignored. Raises
    BadRequest for an invalid header, TooLarge above ``limits.MAX_FUNCTION_BYTES``.
    """
    if len(body) > limits.MAX_FUNCTION_BYTES:
        raise TooLarge(
            f"function '{name}' has {len(body)} bytes, the limit is {limits.MAX_FUNCTION_BYTES}: "
            "pass large data as arguments or through files",
            details={"size": len(body), "limit": limits.MAX_FUNCTION_BYTES},
        )
    digest = hashlib.sha256(body).hexdigest()
    local = _local(body)
    row = {
        "id": names.new_id(),
        "name": name,
        "description": description,
        "source": source,
        "sha256": digest,
        "size": len(body),
        "created": fed.clock(),
        "environment": _environment(name, body),
        "limits": _limits(name, body),
    }
    mine = select(*_COLUMNS, _f.source).where(
        _f.user_no == user.no, _f.sha256 == digest, _f.deleted.is_(None)
    )

    def find_or_insert(connection: Connection) -> tuple[dict[str, Any], bool]:
        found = connection.execute(mine).first()
        if found is not None:
            _note_use(connection, found.id, fed.clock())
            return {**_describe(found), "local": local}, False
        connection.execute(insert(functions).values(user_no=user.no, body=body, **row))
        return {**_readable(row), "local": local}, True

    return fed.database.retry_write(find_or_insert)


def _note_use(connection: Connection, id: str, now: float) -> None:
    """Record that a function is used, once a day: what is registered again is not to be deleted soon."""
    stale = func.coalesce(_f.used, _f.created) < now - USE_INTERVAL
    connection.execute(update(functions).where(_f.id == id, stale).values(used=now))


def get(fed: Federation, user: User, id: str) -> dict[str, Any]:
    """Return the description of one function, with its source and its packages. Raises NotFound."""
    query = select(*_COLUMNS, _f.source, _f.body).where(
        _f.id == id, _f.user_no == user.no, _f.deleted.is_(None)
    )
    with fed.database.read() as connection:
        row = connection.execute(query).first()
    if row is None:
        raise _not_found(id)
    described = _describe(row)
    local = _local(described.pop("body"))
    return {**described, "local": local}


def page(
    fed: Federation, user: User, *, limit: int = pagination.DEFAULT_LIMIT, cursor: str | None = None
) -> tuple[list[dict[str, Any]], str | None]:
    """Return one page of the user's functions without their sources, newest first, and the next cursor."""
    query = select(*_COLUMNS).where(_f.user_no == user.no, _f.deleted.is_(None))
    with fed.database.read() as connection:
        rows, following = pagination.fetch(connection, query, _f.no, limit=limit, cursor=cursor)
    return [_describe(row) for row in rows], following


def delete(fed: Federation, user: User, id: str) -> None:
    """Delete a function; tasks submitted before still run. Raises NotFound."""
    mark = (
        update(functions)
        .where(_f.id == id, _f.user_no == user.no, _f.deleted.is_(None))
        .values(deleted=fed.clock())
    )
    with fed.database.write() as connection:
        if not connection.execute(mark).rowcount:
            raise _not_found(id)
        number = select(_f.no).where(_f.id == id).scalar_subquery()
        connection.execute(drop(samples).where(samples.c.function_no == number))


def _not_found(id: str) -> NotFound:
    return NotFound(
        f"you have no function '{id}': register it, or list your functions with GET /v1/functions",
        code="FUNCTION_NOT_FOUND",
        details={"function_id": id},
    )


def _describe(row: Row) -> dict[str, Any]:
    values = dict(row._mapping)
    del values["no"]
    return _readable(values)


def _readable(values: dict[str, Any]) -> dict[str, Any]:
    texts = {key: values[key] for key in ("environment", "limits")}
    return {**values, **{key: None if text is None else json.loads(text) for key, text in texts.items()}}


def _environment(name: str, body: bytes) -> str | None:
    """Return the environment in the header of a function's body; the code is never read."""
    try:
        environment = of_function(body)
    except ValueError as error:
        raise BadRequest(f"function '{name}' has an invalid environment: {error}") from None
    if environment is None:
        return None
    return json.dumps({"digest": environment.digest, **environment.to_json()})


def _local(body: bytes) -> list[str]:
    """Return the names of the packages that travel with a function; none if the header does not say."""
    try:
        return local_of_function(body)
    except ValueError:  # only for people: the function was accepted, and may run
        return []


def _limits(name: str, body: bytes) -> str | None:
    """Return the limits in the header of a function's body."""
    try:
        found = limits_of_function(body)
    except ValueError as error:
        raise BadRequest(
            f"function '{name}' has an invalid limit: {error}", code="VALIDATION_ERROR"
        ) from None
    return None if found is None else json.dumps(found.to_json())
