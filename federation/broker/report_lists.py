"""The endpoints' lists of reports: read in turn, kept until their reports are in the ledger.

Every endpoint pushes to a list below its own prefix, so its content is not trusted: anything may lie there. A
script reads the oldest reports of several lists without removing them and without sending what is larger than
a report may be; another one removes them once they are applied. Both take one round trip, whatever the number
of endpoints. A claim per endpoint keeps several collectors from reading the same list at the same time. It
only saves work: reports are removed only if the oldest one is still the one that was read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import redis

from umbel.protocol import names
from umbel.protocol.limits import MAX_REPORT_BYTES
from umbel.protocol.node_state import NODE_NEWS

log = logging.getLogger(__name__)

#: Maximum number of reports, and bytes of reports, that are read at once.
READ_COUNT, READ_BYTES = 64, 8 * 1024 * 1024
#: Maximum number of endpoints whose lists are read at once.
READ_ENDPOINTS = 16
#: A longer list, in bytes, is deleted without being read: no honest worker lets it grow that far.
LIST_BYTES = 256 * 1024 * 1024
#: Lifetime of a claim, seconds: the lists of a collector that died are read by others after it.
CLAIM_SECONDS = 30.0
#: Bytes by which an applied report is recognized; they contain its id and the hash of its body.
_MARK_BYTES = 512
_CLAIM_PREFIX = "umbel:claim:"

# Scripts replicate their effects (the default of Redis 7). Writes that a full Redis refuses use pcall,
# because reading and removing reports is what makes room.
_EFFECTS = "if redis.replicate_commands then redis.replicate_commands() end\n"

#: Number of lists whose lengths are asked for at once.
LISTS_AT_ONCE = 1000


def where_some_exist(body: str) -> str:
    """Return a script that executes ``body``, which adds to ``answer``, for each ``KEYS[i]`` that may exist.

    Of many keys almost none exists, which EXISTS answers for a hundred at once.
    """
    return f"""
local answer = {{}}
for first = 1, #KEYS, 100 do
  local last = math.min(first + 99, #KEYS)
  if redis.call('EXISTS', unpack(KEYS, first, last)) > 0 then
    for i = first, last do{body}    end
  end
end
return answer
"""


# KEYS: lists. Returns position and length of each that is not empty. A key of another type counts, too:
# reading it reports the fault.
_WAITING = where_some_exist("""
      local waiting = redis.pcall('LLEN', KEYS[i])
      if type(waiting) ~= 'number' then waiting = 1 end
      if waiting > 0 then
        answer[#answer + 1] = i
        answer[#answer + 1] = waiting
      end
""")

# KEYS: claim, list, counter of applied reports, beats of nodes of each endpoint. ARGV: collector, lifetime
# of its claim (ms), maximum number and bytes of reports per endpoint, largest report, largest list. A list
# that is not valid is deleted, together with the counter and the beats: nodes that miss their beats announce
# themselves again, and push again what was in the list.
_READ = _EFFECTS + """
local count, bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local largest, whole = tonumber(ARGV[5]), tonumber(ARGV[6])
local answer = {}
for i = 1, #KEYS, 4 do
  local claim, list = KEYS[i], KEYS[i + 1]
  local waiting = redis.pcall('LLEN', list)
  local found
  if type(waiting) ~= 'number' then
    redis.call('UNLINK', list, KEYS[i + 2], KEYS[i + 3])
    found = {'wrong type', 0}
  elseif waiting == 0 then
    found = {'read', 0}
  elseif redis.pcall('SET', claim, ARGV[1], 'NX', 'PX', ARGV[2]) == false
      and redis.call('GET', claim) ~= ARGV[1] then
    found = {'claimed', waiting}
  else
    local used = redis.pcall('MEMORY', 'USAGE', list, 'SAMPLES', '0')
    if type(used) == 'number' and used > whole then
      redis.call('UNLINK', list, KEYS[i + 2], KEYS[i + 3])
      found = {'too large', waiting, used}
    else
      found = {'read', waiting}
      local size = 0
      for number = 1, math.min(waiting, count) do
        local report = redis.call('LINDEX', list, -number)
        if #report > largest then
          found[#found + 1] = #report
        else
          size = size + #report
          if number > 1 and size > bytes then break end
          found[#found + 1] = report
        end
      end
    end
  end
  answer[#answer + 1] = found
end
return answer
"""

# KEYS: claim, list and counter of applied reports of each endpoint, and at last the channel of changes. ARGV:
# collector, changed topics, and for each endpoint the number of reports, and size and first bytes of the
# oldest one. A counter of another type is deleted: only the endpoint itself can have written it.
_REMOVE = _EFFECTS + """
for i = 1, #KEYS - 1, 3 do
  local claim, list, at = KEYS[i], KEYS[i + 1], i + 2
  local count, size, mark = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2]
  if count > 0 then
    local oldest = redis.pcall('LINDEX', list, -1)
    if type(oldest) == 'string' and #oldest == size and string.sub(oldest, 1, #mark) == mark then
      redis.call('LTRIM', list, 0, -(count + 1))
      local applied = redis.pcall('INCRBY', KEYS[i + 2], count)
      if type(applied) ~= 'number' then redis.call('UNLINK', KEYS[i + 2]) end
    end
  end
  if redis.call('GET', claim) == ARGV[1] then redis.call('DEL', claim) end
end
if ARGV[2] ~= '' then redis.call('PUBLISH', KEYS[#KEYS], ARGV[2]) end
"""


def is_wrong_type(error: object) -> bool:
    """Return whether an answer of Redis is the error of a key that contains something else."""
    return isinstance(error, redis.ResponseError) and "WRONGTYPE" in str(error)


class HasRedis(Protocol):
    """The broker client, whose Redis client may be replaced."""

    redis: Any


@dataclass
class Unread:
    """The oldest reports in the list of an endpoint, oldest first.

    ``reports``: their bytes, or the size of a report that is too large to be read. ``waiting``: number of all
    reports in the list. ``fault``: what is wrong with the list as a whole, in which case it was deleted.
    """

    endpoint_id: str
    waiting: int
    reports: list[bytes | int] = field(default_factory=list)
    fault: str | None = None


class ReportLists:
    """Reads the reports of all endpoints through one Redis client. May raise one of ``BrokerError``."""

    def __init__(self, broker: HasRedis):
        self._broker = broker
        self._waiting = broker.redis.register_script(_WAITING)
        self._read = broker.redis.register_script(_READ)
        self._remove = broker.redis.register_script(_REMOVE)

    def waiting(self, endpoint_ids: Sequence[str]) -> dict[str, int]:
        """Return the number of unread reports of each endpoint that has some."""
        found: dict[str, int] = {}
        for start in range(0, len(endpoint_ids), LISTS_AT_ONCE):
            some = endpoint_ids[start : start + LISTS_AT_ONCE]
            answer = self._waiting([*map(names.reports_key, some)], client=self._broker.redis)
            found.update((some[i - 1], waiting) for i, waiting in zip(answer[::2], answer[1::2]))
        return found

    def read(self, collector: str, endpoint_ids: Sequence[str]) -> list[Unread]:
        """Claim and read the lists of at most ``READ_ENDPOINTS`` endpoints, each its share.

        Lists that another collector has claimed are left out.
        """
        keys = [key for each in endpoint_ids for key in (*_keys(each), names.beats_key(each))]
        share = max(1, len(endpoint_ids))
        limits = max(1, READ_COUNT // share), READ_BYTES // share, MAX_REPORT_BYTES, LIST_BYTES
        words = [collector, int(CLAIM_SECONDS * 1000), *limits]
        answer = self._read(keys, words, client=self._broker.redis)
        found = []
        for endpoint_id, (how, waiting, *reports) in zip(endpoint_ids, answer):
            if how == b"read":
                found.append(Unread(endpoint_id, waiting, reports))
            elif how == b"wrong type":
                found.append(Unread(endpoint_id, 0, fault="the key of the reports is not a list"))
            elif how == b"too large":
                size = f"{reports[0]} bytes in {waiting} reports"
                found.append(Unread(endpoint_id, 0, fault=f"the list of reports is too large: {size}"))
        return found

    def remove(self, collector: str, applied: Iterable[tuple[Unread, int]], changed: Iterable[str]) -> None:
        """Remove so many of the reports that were read, release the claims, publish the changed topics."""
        keys: list[str] = []
        words: list[Any] = [collector, ",".join(changed)]
        for unread, count in applied:
            keys += _keys(unread.endpoint_id)
            oldest = unread.reports[0] if unread.reports else b""
            size, mark = (oldest, b"") if isinstance(oldest, int) else (len(oldest), oldest[:_MARK_BYTES])
            words += count, size, mark
        self._remove([*keys, names.WAKE_CHANNEL], words, client=self._broker.redis)


def _keys(endpoint_id: str) -> tuple[str, str, str]:
    return _CLAIM_PREFIX + endpoint_id, names.reports_key(endpoint_id), names.applied_key(endpoint_id)


class News(NamedTuple):
    """Which endpoints have pushed reports, and which have written descriptions of nodes."""

    reports: set[str]
    nodes: set[str]


class NewsListener:
    """Receives what workers announce. Lost news are found by looking."""

    #: Maximum number of messages that are read at once.
    MESSAGES = 1000

    def __init__(self, broker: HasRedis):
        self._broker = broker
        self._pubsub: Any = None

    def wait(self, timeout: float) -> News:
        """Wait up to ``timeout`` seconds for news; return the ids of the endpoints that have some.

        After an error, the next call subscribes again.
        """
        try:
            if self._pubsub is None:
                self._pubsub = self._broker.redis.pubsub(ignore_subscribe_messages=True)
                self._pubsub.psubscribe(names.NEWS_PATTERN)
            return self._receive(time.monotonic() + timeout)
        except BaseException:
            self.close()
            raise

    def _receive(self, deadline: float) -> News:
        found = News(set(), set())
        for _ in range(self.MESSAGES):
            # None also stands for the confirmation of the subscription
            left = 0.0 if any(found) else max(0.0, deadline - time.monotonic())
            message = self._pubsub.get_message(timeout=left)
            if message is not None:
                endpoint_id = names.endpoint_of_news(message["channel"])
                if endpoint_id is not None:
                    (found.nodes if message["data"] == NODE_NEWS else found.reports).add(endpoint_id)
            elif any(found) or time.monotonic() >= deadline:
                break
        return found

    def close(self) -> None:
        """Close the subscription."""
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            try:
                pubsub.close()
            except Exception as error:  # noqa: B902 - closing must not hide the first error
                log.debug("the subscription of reports was not closed cleanly: %s", error)
