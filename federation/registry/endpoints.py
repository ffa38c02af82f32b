"""Endpoints, each with its own key, broker account and worker nodes."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import secrets
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, exists, insert, select
from sqlalchemy import update as sql_update

from umbel.protocol import names
from umbel.protocol.errors import BadRequest, Conflict, NotFound, ServiceUnavailable

from ..broker.client import BrokerError
from ..context import Federation
from ..db import arrivals
from ..db.errors import DatabaseConflict
from ..db.shared import lock_endpoint_to_delete
from ..db.tables import endpoints, loads
from . import broker_accounts, endpoint_status, pagination
from .users import User

logger = logging.getLogger(__name__)

PUBLIC_KEY_BYTES = 32
_e = endpoints.c
#: Every column of an endpoint, as ``find`` returns them.
_COLUMNS = (
    _e.no,
    _e.id,
    _e.user_no,
    _e.name,
    _e.description,
    _e.meta,
    _e.public_key,
    _e.broker_sha256,
    _e.created,
    _e.suspended,
)


def registered_ids(connection: Connection) -> list[str]:
    """Return the ids of all endpoints that are not deleted."""
    return list(connection.execute(select(endpoints.c.id).where(endpoints.c.deleted.is_(None))).scalars())


def register(
    fed: Federation,
    user: User,
    *,
    name: str,
    public_key: bytes,
    description: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Register an endpoint; return its description with ``credentials``, which cannot be read again.

    ``public_key``: 32 raw bytes (Ed25519) to verify its reports. Raises BadRequest for an invalid name or
    key, Conflict (NAME_TAKEN), and ServiceUnavailable if the broker is unreachable; then nothing is
    registered.
    """
    _check(name, public_key)
    password = secrets.token_urlsafe(32)
    password_sha256 = hashlib.sha256(password.encode()).hexdigest()
    id = names.new_id()
    row = {
        "id": id,
        "user_no": user.no,
        "name": name,
        "description": description,
        "meta": json.dumps(dict(metadata or {})),
        "public_key": public_key,
        "broker_sha256": password_sha256,
        "created": fed.clock(),
        "epoch": names.new_epoch(),
    }
    _add(fed, row)
    credentials = {
        "endpoint_id": id,
        "broker_url": broker_accounts.credentials_url(fed, id, password),
        "service_key": base64.b64encode(fed.signer.public_key).decode(),
    }
    return {**get(fed, user, id), "credentials": credentials}


def find(fed: Federation, user: User, name_or_id: str) -> Row:
    """Return the row of the user's endpoint with this id or name. Raises NotFound."""
    with fed.database.read() as connection:
        return _find(connection, user, name_or_id)


def get(fed: Federation, user: User, name_or_id: str) -> dict[str, Any]:
    """Return an endpoint's description with the current status of its nodes and queue. Raises NotFound."""
    with fed.database.read() as connection:
        row = _find(connection, user, name_or_id)
        return _described(fed, connection, [row], nodes=endpoint_status.MAX_NODES)[0]


def page(
    fed: Federation, user: User, *, limit: int = pagination.DEFAULT_LIMIT, cursor: str | None = None
) -> tuple[list[dict[str, Any]], str | None]:
    """Return one page of the user's endpoints, newest first, and the next cursor.

    Includes at most ``endpoint_status.MAX_NODES_LISTED`` nodes per endpoint; ``get`` returns all nodes.
    """
    query = select(*_COLUMNS).where(_e.user_no == user.no, _e.deleted.is_(None))
    with fed.database.read() as connection:
        rows, following = pagination.fetch(connection, query, _e.no, limit=limit, cursor=cursor)
        return _described(fed, connection, rows, nodes=endpoint_status.MAX_NODES_LISTED), following


def update(
    fed: Federation,
    user: User,
    name_or_id: str,
    *,
    description: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Update the given fields (None: unchanged); return the endpoint's description. Raises NotFound."""
    values: dict[str, Any] = {}
    if description is not None:
        values["description"] = description
    if metadata is not None:
        values["meta"] = json.dumps(dict(metadata))
    with fed.database.write() as connection:
        no = _find(connection, user, name_or_id).no
        if values:
            connection.execute(sql_update(endpoints).where(_e.no == no).values(values))
    return get(fed, user, name_or_id)


def delete(fed: Federation, user: User, name_or_id: str) -> None:
    """Take an endpoint out of use and its broker account away.

    Raises NotFound, and Conflict (IN_USE) while tasks wait or run there.
    """
    with fed.database.write() as connection:
        row = _find(connection, user, name_or_id)
        lock_endpoint_to_delete(connection, row.no)  # nothing is submitted between the check and the deletion
        live = exists().where(loads.c.endpoint_no == row.no, loads.c.live > 0)
        if arrivals.waiting(connection, [row.no]) or connection.execute(select(live)).scalar():
            raise Conflict(
                f"endpoint '{row.name}' has unfinished tasks: cancel them or wait until they finish",
                code="IN_USE",
                details={"endpoint_id": row.id},
            )
        connection.execute(sql_update(endpoints).where(_e.no == row.no).values(deleted=fed.clock()))
    _remove_from_broker(fed, row.id)


def _add(fed: Federation, row: Mapping[str, Any]) -> None:
    # the account first: a crash in between leaves an account whose password is unknown, which is harmless,
    # instead of an endpoint that can never connect
    try:
        broker_accounts.add_endpoint_user(fed, row["id"], row["broker_sha256"])
        fed.broker.holdings.begin_epochs([row["id"]], row["epoch"])
    except BrokerError as error:
        raise ServiceUnavailable(
            f"endpoint '{row['name']}' was not registered: the broker does not respond ({error}); try again"
        ) from None
    try:
        with fed.database.write() as connection:
            connection.execute(insert(endpoints).values(row))
    except DatabaseConflict:
        _remove_from_broker(fed, row["id"])
        raise Conflict(
            f"you already have an endpoint named '{row['name']}': choose another name or delete it",
            code="NAME_TAKEN",
            details={"name": row["name"]},
        ) from None


def _remove_from_broker(fed: Federation, endpoint_id: str) -> None:
    try:
        broker_accounts.remove_endpoint_user(fed, endpoint_id)
        fed.broker.drop_endpoint(endpoint_id)
    except BrokerError as error:
        # the account can only access its own queue, which receives no more bundles
        logger.warning("endpoint %s: broker account could not be removed: %s", endpoint_id, error)


def _check(name: str, public_key: bytes) -> None:
    if not names.valid_name(name) or names.is_id(name):
        raise BadRequest(
            f"'{name[:80]}' is not a valid endpoint name: use 1 to 63 letters, digits and . _ -, starting "
            "with a letter or digit; a name must not have the form of an id",
            code="VALIDATION_ERROR",
            details={"name": name[:80]},
        )
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise BadRequest(
            f"public_key must be a raw Ed25519 key of {PUBLIC_KEY_BYTES} bytes, got {len(public_key)} bytes",
            code="VALIDATION_ERROR",
        )


def _find(connection: Connection, user: User, name_or_id: str) -> Row:
    query = select(*_COLUMNS).where(_e.user_no == user.no, _e.deleted.is_(None))
    query = (
        query.where(_e.id == name_or_id) if names.is_id(name_or_id) else query.where(_e.name == name_or_id)
    )
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(
            f"you have no endpoint '{name_or_id[:80]}': GET /v1/endpoints lists your endpoints",
            code="ENDPOINT_NOT_FOUND",
            details={"endpoint": name_or_id[:80]},
        )
    return row


def _described(fed: Federation, connection: Connection, rows: Any, *, nodes: int) -> list[dict[str, Any]]:
    states = endpoint_status.read_status(
        connection, [row.no for row in rows], since=fed.clock() - fed.settings.node_lost_after, nodes=nodes
    )
    return [
        {
            "id": row.id,
            "name": row.name,
            "description": row.description,
            "metadata": json.loads(row.meta),
            "created": row.created,
            **states[row.no],
            "suspended": _suspension(row, fed.clock()),
        }
        for row in rows
    ]


def _suspension(row: Row, now: float) -> dict[str, Any] | None:
    """Return the suspension of an endpoint's broker account, or None if it is not suspended now."""
    found: dict[str, Any] | None = json.loads(row.suspended) if row.suspended else None
    return found if found is not None and now < found["until"] else None
