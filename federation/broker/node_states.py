"""The nodes of endpoints as they describe themselves in the broker.

A beat per instance, which changes every few seconds, and a signed description, which rarely changes. Both lie
under the endpoint's own prefix, so anything may be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from umbel.protocol import checks, names
from umbel.protocol.errors import ProtocolError
from umbel.protocol.node_state import MAX_BEAT_BYTES, MAX_STATE_BYTES, Beat

from .report_lists import HasRedis, where_some_exist

#: Largest number of instances that one endpoint may have.
MAX_INSTANCES = 20_000
#: Number of endpoints, and of descriptions, that are read at once; of endpoints that are looked at.
ENDPOINTS_AT_ONCE, STATES_AT_ONCE, LOOKED_AT_ONCE = 100, 200, 1000

# KEYS: epoch, beats and descriptions of each endpoint. ARGV: most instances, largest beat. Returns the epoch
# ('': none) and the beats of instances with a description: a beat may have been written after a loss of keys
# and before the instance has noticed it. A hash that is none, or too large, is deleted.
_BEATS = """
if redis.replicate_commands then redis.replicate_commands() end
local answer = {}
for i = 1, #KEYS, 3 do
  local epoch = redis.pcall('GET', KEYS[i])
  if type(epoch) ~= 'string' then epoch = '' end
  local size = redis.pcall('HLEN', KEYS[i + 1])
  local beats = {}
  if type(size) ~= 'number' or size > tonumber(ARGV[1]) then
    redis.call('UNLINK', KEYS[i + 1])
  elseif size > 0 then
    local all = redis.call('HGETALL', KEYS[i + 1])
    for j = 1, #all, 2 do
      if #all[j] <= 64 and #all[j + 1] <= tonumber(ARGV[2])
          and redis.pcall('HEXISTS', KEYS[i + 2], all[j]) == 1 then
        beats[#beats + 1] = all[j]
        beats[#beats + 1] = all[j + 1]
      end
    end
  end
  answer[#answer + 1] = epoch
  answer[#answer + 1] = beats
end
return answer
"""

# KEYS: beats. Returns the positions of those that are there.
_EXISTING = where_some_exist("""
      if redis.call('EXISTS', KEYS[i]) == 1 then answer[#answer + 1] = i end
""")

# KEYS: descriptions. ARGV: largest one, instances. Returns each, or '' if there is none or it is too large.
_STATES = """
local answer = {}
for i = 2, #ARGV do
  local size = redis.pcall('HSTRLEN', KEYS[1], ARGV[i])
  local found = ''
  if type(size) == 'number' and size > 0 and size <= tonumber(ARGV[1]) then
    found = redis.call('HGET', KEYS[1], ARGV[i])
  end
  answer[#answer + 1] = found
end
return answer
"""


@dataclass
class Beats:
    """The epoch of an endpoint's keys (0: none), and the beats of its instances."""

    epoch: int = 0
    beats: dict[str, Beat] = field(default_factory=dict)


class NodeStates:
    """Reads the nodes of all endpoints. Every method may raise one of ``BrokerError``."""

    def __init__(self, broker: HasRedis):
        self._broker = broker
        self._beats = broker.redis.register_script(_BEATS)
        self._states = broker.redis.register_script(_STATES)
        self._existing = broker.redis.register_script(_EXISTING)

    def beats(self, endpoint_ids: Sequence[str]) -> dict[str, Beats]:
        """Return the epoch of each endpoint, and the beats of its announced instances."""
        found: dict[str, Beats] = {}
        for start in range(0, len(endpoint_ids), ENDPOINTS_AT_ONCE):
            some = endpoint_ids[start : start + ENDPOINTS_AT_ONCE]
            keys = [
                key
                for each in some
                for key in (names.epoch_key(each), names.beats_key(each), names.nodes_key(each))
            ]
            answer = self._beats(keys, [MAX_INSTANCES, MAX_BEAT_BYTES], client=self._broker.redis)
            for endpoint_id, epoch, beats in zip(some, answer[::2], answer[1::2]):
                read = _read_beats(beats)
                found[endpoint_id] = Beats(int(epoch) if epoch.isdigit() and len(epoch) < 20 else 0, read)
        return found

    def with_nodes(self, endpoint_ids: Sequence[str]) -> list[str]:
        """Return which of these endpoints have nodes."""
        found: list[str] = []
        for start in range(0, len(endpoint_ids), LOOKED_AT_ONCE):
            some = endpoint_ids[start : start + LOOKED_AT_ONCE]
            answer = self._existing([*map(names.beats_key, some)], client=self._broker.redis)
            found += [some[i - 1] for i in answer]
        return found

    def descriptions(self, endpoint_id: str, instances: Sequence[str]) -> dict[str, bytes]:
        """Return the sealed descriptions of these instances; those that are missing are left out."""
        found: dict[str, bytes] = {}
        for start in range(0, len(instances), STATES_AT_ONCE):
            some = instances[start : start + STATES_AT_ONCE]
            words = [MAX_STATE_BYTES, *some]
            answer = self._states([names.nodes_key(endpoint_id)], words, client=self._broker.redis)
            found.update((instance, data) for instance, data in zip(some, answer) if data)
        return found

    def confirm(self, endpoint_id: str, instances: Iterable[str]) -> None:
        """Let these instances fetch bundles: they are in the ledger."""
        words = list(instances)
        if words:
            self._broker.redis.sadd(names.known_key(endpoint_id), *words)

    def remove(self, endpoint_id: str, instances: Sequence[str]) -> None:
        """Remove everything of instances that have ended. One that lives notices it and starts over."""
        pipe = self._broker.redis.pipeline(transaction=True)
        for instance in instances:
            pipe.hdel(names.beats_key(endpoint_id), instance)
            pipe.hdel(names.nodes_key(endpoint_id), instance)
            pipe.srem(names.known_key(endpoint_id), instance)
            pipe.delete(names.fetched_key(endpoint_id, instance), names.held_key(endpoint_id, instance))
        pipe.execute(raise_on_error=False)


def _read_beats(words: Sequence[Any]) -> dict[str, Beat]:
    found = {}
    for instance, beat in zip(words[::2], words[1::2]):
        try:
            found[checks.identifier(instance.decode("ascii", "replace"))] = Beat.read(beat)
        except (ProtocolError, ValueError):
            continue
    return found
