"""Reads the first calls of an endpoint's queues, as many as a refill needs.

A user's calls lie in an index by priority, group and number. Small groups share a page of it; behind a page
that ends within a group, reading goes on with the next group. So the cost depends on the number of bundles to
send, not on the number or size of groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select

from umbel.protocol.states import TaskState

from ..db.options import Options
from ..db.statements import Statement, constant
from ..db.tables import groups, submissions, tasks
from .planning import QueuedCall
from .run_times import known_seconds

#: Pages that one refill reads at most, beyond the first one of each user; least number of calls in a page.
MAX_PAGES, LEAST_PAGE = 64, 16
#: Number of queued calls of a group that may be idle, and of these groups of a user, at most.
FEW_CALLS, FEW_GROUPS = 256, 64
#: Larger than every number of a group.
_END = 2**62


class HeadCall(NamedTuple):
    """The columns of a queued call that a refill needs."""

    no: int
    priority: int
    function_no: int
    submission_no: int
    blob_size: int
    group_no: int
    id: str
    attempt: int
    blob_no: int
    blob_offset: int


class Turn(NamedTuple):
    """A user with work, the group of that user which was served last, and the priority of its sent calls.

    ``priority``: the highest one in the last refill that sent calls; None: no calls are sent.
    """

    user: int
    last_group: int
    priority: int | None = None


def _queue(*conditions: Any) -> Any:
    return select(*[tasks.c[name] for name in HeadCall._fields]).where(
        tasks.c.endpoint_no == bindparam("endpoint"),
        tasks.c.user_no == bindparam("user"),
        tasks.c.state == constant(TaskState.QUEUED.value),
        *conditions,
        # calls wider than every live node stay queued and do not block others
        tasks.c.cores <= bindparam("largest"),
    )


_first_page = Statement(
    lambda d: _queue()
    .order_by(tasks.c.priority.desc(), tasks.c.group_no, tasks.c.no)
    .limit(bindparam("lookahead"))
)
_next_page = Statement(
    lambda d: _queue(
        tasks.c.priority == bindparam("priority"),
        tasks.c.group_no > bindparam("after"),
        tasks.c.group_no <= bindparam("until"),
    )
    .order_by(tasks.c.group_no, tasks.c.no)
    .limit(bindparam("lookahead"))
)
_options = Statement(
    lambda d: select(submissions.c.no, submissions.c.options).where(d.among(submissions.c.no, "nos"))
)
_unfinished = Statement(
    lambda d: select(groups.c.no, groups.c.size - groups.c.completions).where(d.among(groups.c.no, "nos"))
)


@dataclass(frozen=True)
class QueueHeads:
    """The first calls of each user's queue.

    ``calls``: by number; ``options``: by submission number; ``cores``: slots of kinds that occupy several;
    ``seconds``: run times by function number. ``cut``: (user, group) pairs of which not all calls were read.
    ``partial``: users of whom not all calls were read. ``idle``: groups of which no calls are sent, as far as
    known.
    """

    queues: list[tuple[int, list[QueuedCall]]]
    calls: dict[int, HeadCall]
    options: dict[int, str]
    cores: dict[Hashable, int]
    seconds: dict[int, float]
    cut: frozenset[tuple[int, int]]
    partial: frozenset[int]
    idle: frozenset[int]


class HeadReader:
    """Reads heads for one refill.

    ``groups``: of each user at least so many, if there are. ``idle``: whether idle groups are of interest.
    """

    def __init__(self, connection: Connection, endpoint_no: int, largest: int, *, groups: int, idle: bool):
        self._connection = connection
        self._endpoint_no = endpoint_no
        self._groups = groups
        self._with_idle = idle
        self._of = {"endpoint": endpoint_no, "largest": largest}

    def read(self, turns: Sequence[Turn], lookahead: int) -> QueueHeads:
        """Read about ``lookahead`` calls of each user."""
        heads: dict[int, list[HeadCall]] = {}
        cut: set[tuple[int, int]] = set()
        partial: set[int] = set()
        pages = max(1, MAX_PAGES // max(1, len(turns)))
        for turn in turns:
            head, groups, whole = self._head(turn, lookahead, pages)
            # from now on in the order of turns
            head.sort(key=lambda call: (-call[1], call[5] <= turn.last_group, call[5], call[0]))
            heads[turn.user] = head
            cut.update((turn.user, group) for group in groups)
            if not whole:
                partial.add(turn.user)
        return self._described(heads, frozenset(cut), frozenset(partial))

    def _head(self, turn: Turn, lookahead: int, pages: int) -> tuple[list[HeadCall], set[int], bool]:
        """Return a user's first calls, the groups of which calls were left out, and whether these are all."""
        of = {**self._of, "user": turn.user}
        rows = _first_page.rows(self._connection, lookahead=lookahead, **of)
        head = list(map(HeadCall._make, rows))
        if len(head) < lookahead:
            return head, set(), True
        # the groups up to this one are known, but this one perhaps not to its end
        priority, known = head[-1].priority, head[-1].group_no
        cut = {known}
        later = {call.group_no for call in head if call.group_no > turn.last_group}
        # first those after the last turn, then those before it
        parts = [(max(known, turn.last_group), _END, later)]
        if turn.last_group > known:
            parts.append((known, turn.last_group, {call.group_no for call in head}))
        for after, until, found in parts:
            while pages and len(found) < self._groups:
                pages -= 1
                size = max(LEAST_PAGE, lookahead // 2)
                where = {"priority": priority, "after": after, "until": until}
                rows = _next_page.rows(self._connection, lookahead=size, **where, **of)
                head += map(HeadCall._make, rows)
                found.update(row[5] for row in rows)
                if len(rows) < size:
                    break
                after = rows[-1][5]
                cut.add(after)
        return head, cut, False

    def _idle(self, heads: Mapping[int, Sequence[HeadCall]], cut: Collection[tuple[int, int]]) -> set[int]:
        """Return groups of which all unfinished calls were read, among the few with few calls."""
        if not self._with_idle:
            return set()
        queued: dict[int, int] = {}
        for user, head in heads.items():
            counts = Counter(call.group_no for call in head if (user, call.group_no) not in cut)
            queued.update(islice((each for each in counts.items() if each[1] <= FEW_CALLS), FEW_GROUPS))
        if not queued:
            return set()
        found = _unfinished.rows(self._connection, nos=sorted(queued))
        return {no for no, unfinished in found if unfinished <= queued[no]}

    def _described(
        self, heads: dict[int, list[HeadCall]], cut: frozenset[tuple[int, int]], partial: frozenset[int]
    ) -> QueueHeads:
        """Add what planning needs to know about the calls."""
        needed = sorted({call.submission_no for head in heads.values() for call in head})
        options = dict(_options.rows(self._connection, nos=needed)) if needed else {}
        widths = {no: width for no in needed if (width := Options.from_json(options[no]).cores) > 1}
        kinds: dict[tuple[int, int], Hashable] = {}
        cores: dict[Hashable, int] = {}
        queues = []
        for user, head in heads.items():
            queue = []
            for call in head:
                key = call[2:4]
                kind = kinds.get(key)
                if kind is None:
                    kind = kinds[key] = (call.function_no, options[call.submission_no])
                    if call.submission_no in widths:
                        cores[kind] = widths[call.submission_no]
                queue.append(QueuedCall(call[0], call[1], kind, call[4], call[5]))
            queues.append((user, queue))
        calls = {call[0]: call for head in heads.values() for call in head}
        functions = sorted({call[2] for call in calls.values()})
        seconds = known_seconds(self._connection, self._endpoint_no, functions)
        idle = frozenset(self._idle(heads, cut))
        return QueueHeads(queues, calls, options, cores, seconds, cut, partial, idle)
