"""What a round over an elastic endpoint depends on, for all of them at once.

A round is due when the state of its endpoint here differs from the one before: work arrived or ended, a node
started, stopped or changed its load, a block began or ended, the owner changed something.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, literal_column, select

from ...db.tables import blocks, endpoints, loads, nodes, sites

#: Parts of a state: of the site, of its work, of its active blocks, of its live nodes.
State = tuple[Any, ...]


def states(connection: Connection) -> dict[int, State]:
    """Return the state of each elastic endpoint, including deleted ones whose sites are not clean yet."""
    own = select(sites.c.endpoint_no, sites.c.policy, sites.c.memory, sites.c.settings, endpoints.c.deleted)
    own = own.join(endpoints, endpoints.c.no == sites.c.endpoint_no)
    found: dict[int, list[Any]] = {no: [tuple(rest)] for no, *rest in connection.execute(own)}
    elastic = select(sites.c.endpoint_no)
    work = func.sum(loads.c.live), func.sum(loads.c.sent)
    queries = (
        select(loads.c.endpoint_no, *work).where(loads.c.endpoint_no.in_(elastic)),
        select(blocks.c.endpoint_no, func.count(), func.sum(blocks.c.no)).where(blocks.c.ended.is_(None)),
        select(nodes.c.endpoint_no, func.count(), func.sum(nodes.c.busy), func.sum(nodes.c.slots)).where(
            nodes.c.endpoint_no.in_(elastic), nodes.c.live == literal_column("1")
        ),
    )
    for query in queries:
        grouped = query.group_by(literal_column("1"))
        rows = {no: tuple(rest) for no, *rest in connection.execute(grouped)}
        for no, parts in found.items():
            parts.append(rows.get(no))
    return {no: tuple(parts) for no, parts in found.items()}
