"""Tokens for calls that submit further calls as the user of their task.

A call exchanges the grant of its endpoint for one (see ``umbel.protocol.grant``). The user must have
submitted the task with the option ``nested``: a stolen endpoint gets no token for other tasks. The token has
a scope, sees only what calls of the same task have submitted, and is valid while the task runs in the bundle
of the grant, for an hour at most; a call that runs longer gets another one.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select

from umbel.protocol import grant as grants
from umbel.protocol.envelope import Verifier
from umbel.protocol.errors import Forbidden, ProtocolError, Unauthorized

from ..context import Federation
from ..db import shared
from ..db.options import Options
from ..db.tables import bundles, endpoints, submissions, tasks, tokens, users
from .users import User, create_token, has_access

#: What calls may do, one word for each kind of route.
SCOPE = "functions:register tasks:submit tasks:read tasks:cancel"
#: Longest validity, seconds.
LIFETIME = 3600.0
#: Most expired tokens deleted in one transaction.
BATCH = 1000


def create(fed: Federation, grant: str, task_id: str) -> dict[str, Any]:
    """Return ``{"token", "expires"}`` for a call of a task that runs in the bundle of a grant.

    Raises Unauthorized if the grant is not valid or the task does not run there, Forbidden if its user has
    not allowed it.
    """
    bundle_id, endpoint_no = _verified(fed, grant)
    query = (
        select(users.c.no, users.c.id, users.c.name, submissions.c.options, has_access(users.c.no))
        .select_from(tasks)
        .join(bundles, bundles.c.no == tasks.c.bundle_no)
        .join(submissions, submissions.c.no == tasks.c.submission_no)
        .join(users, users.c.no == tasks.c.user_no)
        .where(tasks.c.id == task_id, bundles.c.id == bundle_id, bundles.c.endpoint_no == endpoint_no)
    )
    with fed.database.read() as connection:
        row = connection.execute(query).first()
    if row is None:
        raise Unauthorized(
            f"no token for task '{task_id[:40]}': it does not run in the bundle of this grant (any more)"
        )
    options = Options.from_json(row.options)
    if not options.nested:
        raise Forbidden(
            f"task '{task_id}' may not submit calls: its submission has no option 'nested'. Submit it with "
            "Executor(..., nested=True)"
        )
    if not row[-1]:
        raise Forbidden(f"task '{task_id}' may not submit calls: all tokens of its user are revoked")
    lifetime = min(LIFETIME, options.timeout or LIFETIME)
    limits = {"scope": SCOPE, "task_id": task_id, "bundle_id": bundle_id}
    token = create_token(fed, User(*row[:3]), f"call of task {task_id}", lifetime, **limits)
    return {"token": token, "expires": fed.clock() + lifetime}


def _verified(fed: Federation, grant: str) -> tuple[str, int]:
    """Return id of the bundle and number of the endpoint of a valid grant. Raises Unauthorized."""
    query = select(endpoints.c.no, endpoints.c.public_key)
    try:
        known = query.where(endpoints.c.id == grants.endpoint_of(grant), endpoints.c.deleted.is_(None))
        with fed.database.read() as connection:
            row = connection.execute(known).first()
        if row is None:
            raise ProtocolError("its endpoint does not exist")
        return grants.read(Verifier(row.public_key), grant, fed.clock()), row.no
    except ProtocolError as error:
        raise Unauthorized(f"the grant is not valid: {error.message}") from None


def delete_expired(fed: Federation, now: float) -> int:
    """Delete one batch of expired tokens of calls; return how many."""
    old = tokens.c.task_id.is_not(None) & (tokens.c.expires < now)
    with fed.database.read() as connection:
        found = list(connection.execute(select(tokens.c.no).where(old).limit(BATCH)).scalars())
    if not found:
        return 0
    with fed.database.write() as connection:
        return connection.execute(delete(tokens).where(shared.among(connection, tokens.c.no, found))).rowcount
