"""Reads the first calls of an endpoint's queues, as many as a refill needs.

A user's calls lie in an index by priority, group and number. Small groups share a page of it; behind a page
that ends within a group, reading goes on with the next group. So the cost depends on the number of bundles to
send, not on the number of users or groups, or the size of groups.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select

from umbel.protocol.states import TaskState

from ..db.arrivals import Arrival
from ..db.options import Options
from ..db.statements import Statement, constant, maker
from ..db.tables import groups, submissions, tasks
from .planning import QueuedCall
from .run_times import known_seconds

#: Pages that one refill reads at most, beyond the first one of each user; least number of calls in a page.
MAX_PAGES, LEAST_PAGE = 64, 16
#: Number of groups that pass in one refill, and of queued calls of such a group, at most.
MAX_PASSING, FEW_CALLS = 8, 256
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


_call = maker(HeadCall)


class Turn(NamedTuple):
    """A user with work, the group of that user which was served last, and the priority of its sent calls.

    ``priority``: the highest one in the last refill that sent calls; None: no calls are sent.
    """

    user: int
    last_group: int
    priority: int | None = None


def small_groups(waiting: Sequence[Turn], arrived: Sequence[Arrival]) -> list[tuple[Turn, Arrival]]:
    """Return the calls among those that have just arrived that may pass a full window, and their users."""
    few = [each for each in arrived if each.calls <= FEW_CALLS][:MAX_PASSING]
    turns = {turn.user: turn for turn in waiting} if few else {}
    return [(turns[each.user_no], each) for each in few if each.user_no in turns]


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
    ``partial``: users of whom not all calls were read. ``idle``: arrived groups of which no calls are sent,
    as far as known.
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

    ``turns``: the users whose turn it is, of each of whom ``groups`` groups are read, if there are so many.
    ``arrived``: small groups that may pass, and their users.
    """

    def __init__(
        self,
        connection: Connection,
        endpoint_no: int,
        largest: int,
        turns: Sequence[Turn],
        arrived: Sequence[tuple[Turn, Arrival]],
        *,
        groups: int,
    ):
        self._connection = connection
        self._endpoint_no = endpoint_no
        self._turns = turns
        self._arrived = arrived
        self._groups = groups
        self._of = {"endpoint": endpoint_no, "largest": largest}

    def read(self, lookahead: int) -> QueueHeads:
        """Read about ``lookahead`` calls."""
        heads: dict[int, list[HeadCall]] = {}
        cut: set[tuple[int, int]] = set()
        partial: set[int] = set()
        share = max(LEAST_PAGE, lookahead // max(1, len(self._turns)))
        pages = MAX_PAGES // max(1, len(self._turns))
        whose = [(turn, share, pages) for turn in self._turns]
        for turn, size, most in [*whose, *((turn, LEAST_PAGE, 0) for turn, _ in self._arrived)]:
            if turn.user in heads:
                continue
            head, groups, whole = self._head(turn, size, most)
            # from now on in the order of turns
            head.sort(key=lambda call: (-call[1], call[5] <= turn.last_group, call[5], call[0]))
            heads[turn.user] = head
            cut.update((turn.user, group) for group in groups)
            if not whole:
                partial.add(turn.user)
        for turn, arrival in self._arrived:
            if turn.user in partial:
                self._add_arrival(arrival, heads[turn.user], cut)
        return self._described(heads, frozenset(cut), frozenset(partial))

    def _add_arrival(self, arrival: Arrival, head: list[HeadCall], cut: set[tuple[int, int]]) -> None:
        """Read the calls of a group if they follow those that were read and may pass."""
        user, priority, group = arrival.user_no, arrival.priority, arrival.group_no
        known = (user, group) not in cut and any(call.group_no == group for call in head)
        if known or priority < head[-1].priority:
            return
        rows = self._page(user, priority, group - 1, group, FEW_CALLS + 1)
        head[:] = [call for call in head if (call.priority, call.group_no) != (priority, group)] + rows
        if len(rows) <= FEW_CALLS:
            cut.discard((user, group))
        else:
            cut.add((user, group))

    def _page(self, user: int, priority: int, after: int, until: int, size: int) -> list[HeadCall]:
        """Return the first calls of the groups after the first one and up to the second one."""
        where = {"user": user, "priority": priority, "after": after, "until": until, "lookahead": size}
        return list(map(_call, _next_page.rows(self._connection, **where, **self._of)))

    def _head(self, turn: Turn, lookahead: int, pages: int) -> tuple[list[HeadCall], set[int], bool]:
        """Return a user's first calls, the groups of which calls were left out, and whether these are all."""
        rows = _first_page.rows(self._connection, user=turn.user, lookahead=lookahead, **self._of)
        head = list(map(_call, rows))
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
        size = max(LEAST_PAGE, lookahead // 2)
        for after, until, found in parts:
            while pages and len(found) < self._groups:
                pages -= 1
                page = self._page(turn.user, priority, after, until, size)
                head += page
                found.update(call.group_no for call in page)
                if len(page) < size:
                    break
                after = page[-1].group_no
                cut.add(after)
        return head, cut, False

    def _idle(self, heads: Mapping[int, Sequence[HeadCall]], cut: Collection[tuple[int, int]]) -> set[int]:
        """Return the arrived groups of which all unfinished calls were read."""
        queued = {
            arrival.group_no: sum(1 for call in heads[turn.user] if call.group_no == arrival.group_no)
            for turn, arrival in self._arrived
            if (turn.user, arrival.group_no) not in cut
        }
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
