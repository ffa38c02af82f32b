"""Pruning: deletes what tasks leave behind when retention has deleted them.

Submissions of groups that live on, run time estimates, and functions that nobody has used for long. Each kind
is visited page by page in the order of its numbers, one page per call, and then again from the start, so the
cost of one call does not depend on how many rows must stay.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from sqlalchemy import Column, Row, Table, and_, delete, exists, select

from ..context import Federation
from ..db import shared
from ..db.tables import estimates, functions, samples, submissions, tasks
from .retention import delete_submissions

log = logging.getLogger(__name__)

#: Rows that are visited in one call, and functions that are deleted in one transaction: for each of them, the
#: database looks whether an open bundle refers to it.
PAGE, FUNCTIONS = 1000, 20


class Pruner:
    """Prunes one page of each kind per call of ``prune``."""

    def __init__(self, fed: Federation):
        self._fed = fed
        # the last number of the previous page, by table
        self._after: dict[str, int] = {}

    def prune(self, now: float) -> int:
        """Prune one page of each kind; return how many rows were deleted. ``now``: seconds since 1970."""
        kept, functions_kept = self._fed.settings.retention, self._fed.settings.function_retention
        unused = now - max(kept, functions_kept) if functions_kept else 0.0
        count = self._submissions(now - kept) + self._functions(now - kept, unused)
        return count + self._estimates(now - max(kept, functions_kept))

    def _page(self, table: Table, *columns: Column) -> Sequence[Row]:
        """Return ``no`` and these columns of the next page of rows."""
        after = self._after.get(table.name, 0)
        query = select(table.c.no, *columns).where(table.c.no > after).order_by(table.c.no).limit(PAGE)
        with self._fed.database.read() as connection:
            found = connection.execute(query).all()
        self._after[table.name] = found[-1].no if len(found) == PAGE else 0
        return found

    def _submissions(self, before: float) -> int:
        """Delete submissions all of whose tasks are gone."""
        page = self._page(submissions, submissions.c.created)
        old = [row.no for row in page if row.created < before]
        if not old:
            return 0
        task = exists().where(tasks.c.submission_no == submissions.c.no)
        with self._fed.database.write() as connection:
            among = shared.among(connection, submissions.c.no, old)
            return delete_submissions(connection, and_(among, ~task))

    def _functions(self, deleted: float, unused: float) -> int:
        """Delete functions without tasks that were deleted, or last used, before these times."""
        page = self._page(functions, functions.c.created, functions.c.used, functions.c.deleted)
        old = [
            row.no
            for row in page
            if max(row.created, row.used or 0.0) < unused or (row.deleted or math.inf) < deleted
        ]
        count = 0
        for start in range(0, len(old), FUNCTIONS):
            count += self._delete_functions(old[start : start + FUNCTIONS])
        if count:
            log.info("%d functions were deleted: no task has used them for long", count)
        return count

    def _delete_functions(self, numbers: list[int]) -> int:
        """Delete those of some functions that no submission has; others were used in the meantime."""
        used = exists().where(submissions.c.function_no == functions.c.no)
        with self._fed.database.write() as connection:
            query = select(functions.c.no).where(shared.among(connection, functions.c.no, numbers), ~used)
            gone = list(connection.execute(query.with_for_update(skip_locked=True)).scalars())
            if gone:
                connection.execute(
                    delete(samples).where(shared.among(connection, samples.c.function_no, gone))
                )
                connection.execute(delete(functions).where(shared.among(connection, functions.c.no, gone)))
        return len(gone)

    def _estimates(self, before: float) -> int:
        """Delete the oldest estimates, about a page of them."""
        with self._fed.database.read() as connection:
            oldest = select(estimates.c.updated).where(estimates.c.updated < before)
            page = connection.execute(oldest.order_by(estimates.c.updated).limit(PAGE)).scalars().all()
        if not page:
            return 0
        with self._fed.database.write() as connection:
            return connection.execute(delete(estimates).where(estimates.c.updated <= page[-1])).rowcount
