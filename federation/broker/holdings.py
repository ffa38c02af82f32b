"""Where bundles are in the broker: pushed once, and always found in at least one place until they have ended.

A bundle moves from the endpoint's queue to the list of messages that an instance of a node has fetched, and
from there to the set of bundles that the instance holds. ``lost_bundles`` looks at these places in this
order, so a bundle that it does not find has moved on to the ledger, or is lost. See
docs/decisions/0030-holdings.rst.

Everything lies under the endpoint's own prefix, so anything may be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from umbel.protocol import checks, names
from umbel.protocol.limits import BUNDLE_LIFETIME

from .celery_message import bundle_id
from .report_lists import HasRedis

#: Number of bundles in one command, and of instances whose holdings are read at once.
IDS_AT_ONCE, INSTANCES_AT_ONCE = 1000, 100
#: Largest number of messages and of ids that one instance may have; more is an error of its endpoint.
MAX_FETCHED, MAX_HELD = 20_000, 200_000

# KEYS: epoch, sent, revoked, queue and body of each bundle. ARGV: for each bundle its epoch, id, message and
# the command that pushes it. Returns for each bundle 1, or 0 if it must not be pushed, or -1 if the endpoint
# keeps something else under a key. A body was written before, and is deleted if the bundle is not pushed: Lua
# would hash every byte of an argument, and copy it twice.
_PUSH = """
local answer = {}
for i = 1, #KEYS / 5 do
  local key, word = 5 * i - 4, 4 * i - 3
  local epoch = redis.pcall('GET', KEYS[key])
  local revoked = redis.pcall('SISMEMBER', KEYS[key + 2], ARGV[word + 1])
  if type(revoked) ~= 'number' then
    answer[i] = -1
  elseif epoch ~= ARGV[word] or revoked == 1 then
    answer[i] = 0
  else
    local sent = redis.pcall('SADD', KEYS[key + 1], ARGV[word + 1])
    local pushed = redis.pcall(ARGV[word + 3], KEYS[key + 3], ARGV[word + 2])
    answer[i] = 1
    if type(sent) ~= 'number' or type(pushed) ~= 'number' then
      answer[i] = -1
      redis.pcall('SREM', KEYS[key + 1], ARGV[word + 1])
    end
  end
  if answer[i] ~= 1 then redis.call('UNLINK', KEYS[key + 4]) end
end
return answer
"""

# KEYS: sent, revoked. ARGV: lifetime, ids. Revokes those that were not sent; returns them.
_REVOKE = """
local found = {}
for i = 2, #ARGV do
  if redis.pcall('SISMEMBER', KEYS[1], ARGV[i]) ~= 1 then
    redis.call('SADD', KEYS[2], ARGV[i])
    found[#found + 1] = ARGV[i]
  end
end
if #found > 0 then redis.call('EXPIRE', KEYS[2], ARGV[1]) end
return found
"""

# KEYS: fetched and held of each instance. ARGV: most messages, most ids. Returns the messages and the ids, or
# nil for what is not of the expected type or too much; such a key is deleted.
_READ = """
if redis.replicate_commands then redis.replicate_commands() end
local answer = {}
for i = 1, #KEYS, 2 do
  local length = redis.pcall('LLEN', KEYS[i])
  local size = redis.pcall('SCARD', KEYS[i + 1])
  local messages, ids = {}, {}
  if type(length) ~= 'number' or length > tonumber(ARGV[1]) then
    redis.call('UNLINK', KEYS[i])
  elseif length > 0 then
    messages = redis.call('LRANGE', KEYS[i], 0, -1)
  end
  if type(size) ~= 'number' or size > tonumber(ARGV[2]) then
    redis.call('UNLINK', KEYS[i + 1])
  elseif size > 0 then
    ids = redis.call('SMEMBERS', KEYS[i + 1])
  end
  answer[#answer + 1] = messages
  answer[#answer + 1] = ids
end
return answer
"""


class Pushed(NamedTuple):
    """A bundle to push: ``epoch`` is the one of its endpoint in which it was recorded.

    ``passes``: it goes to the head of the queue.
    """

    endpoint_id: str
    bundle_id: str
    epoch: int
    message: bytes
    body: bytes = b""
    passes: bool = False


class Holdings:
    """The bundles of all endpoints. Every method may raise one of ``BrokerError``."""

    def __init__(self, broker: HasRedis):
        self._broker = broker
        self._push = broker.redis.register_script(_PUSH)
        self._revoke = broker.redis.register_script(_REVOKE)
        self._read = broker.redis.register_script(_READ)

    def push(self, bundles: Sequence[Pushed]) -> list[int]:
        """Push bundles to the queues of their endpoints; return 1 for each that was pushed.

        0: its endpoint has begun a new epoch, or the bundle was revoked. -1: the endpoint keeps something
        else under a key.
        """
        keys: list[str] = []
        words: list[Any] = []
        bodies: dict[str, bytes] = {}
        for each in bundles:
            of = each.endpoint_id
            keys += (names.epoch_key(of), names.sent_key(of), names.revoked_key(of), names.queue_key(of))
            keys.append(names.body_key(of, each.bundle_id))
            words += each.epoch, each.bundle_id, each.message, "RPUSH" if each.passes else "LPUSH"
            if each.body:
                bodies[keys[-1]] = each.body
        if not bodies:
            return list(map(int, self._push(keys, words, client=self._broker.redis)))
        pipe = self._broker.redis.pipeline(transaction=True)
        for key, body in bodies.items():
            pipe.set(key, body, ex=int(BUNDLE_LIFETIME))
        self._push(keys, words, client=pipe)
        return list(map(int, pipe.execute()[-1]))

    def revoke_unsent(self, endpoint_id: str, ids: Sequence[str]) -> set[str]:
        """Revoke those of these bundles that were not pushed in this epoch; return them."""
        keys = names.sent_key(endpoint_id), names.revoked_key(endpoint_id)
        found: set[str] = set()
        for start in range(0, len(ids), IDS_AT_ONCE):
            words = [int(BUNDLE_LIFETIME), *ids[start : start + IDS_AT_ONCE]]
            found.update(each.decode() for each in self._revoke(keys, words, client=self._broker.redis))
        return found

    def at_instances(self, endpoint_id: str, instances: Sequence[str]) -> dict[str, set[str]]:
        """Return the bundles that each instance has fetched or holds.

        To be called after the queue was read, so that no bundle is missed that moves in between.
        """
        found: dict[str, set[str]] = {}
        for start in range(0, len(instances), INSTANCES_AT_ONCE):
            some = instances[start : start + INSTANCES_AT_ONCE]
            keys = [
                key
                for each in some
                for key in (names.fetched_key(endpoint_id, each), names.held_key(endpoint_id, each))
            ]
            answer = self._read(keys, [MAX_FETCHED, MAX_HELD], client=self._broker.redis)
            for instance, messages, ids in zip(some, answer[::2], answer[1::2]):
                fetched = {id for message in messages if (id := bundle_id(message)) is not None}
                found[instance] = fetched | set(filter(None, map(_identifier, ids)))
        return found

    def sent(self, endpoint_id: str) -> set[str]:
        """Return the bundles that were pushed in this epoch and are not forgotten."""
        key = names.sent_key(endpoint_id)
        return {each.decode("ascii", "replace") for each in self._broker.redis.smembers(key)}

    def forget_sent(self, endpoint_id: str, ended: Sequence[str]) -> None:
        """Forget bundles that have ended."""
        key = names.sent_key(endpoint_id)
        for start in range(0, len(ended), IDS_AT_ONCE):
            self._broker.redis.srem(key, *ended[start : start + IDS_AT_ONCE])

    def is_epoch(self, endpoint_id: str, epoch: int) -> bool:
        """Return whether the keys of an endpoint are still those of an epoch."""
        found: bytes | None = self._broker.redis.get(names.epoch_key(endpoint_id))
        return found == str(epoch).encode()

    def begin_epochs(self, endpoint_ids: Iterable[str], epoch: int) -> None:
        """Begin an epoch of these endpoints: what was recorded before cannot be pushed any more."""
        pipe = self._broker.redis.pipeline(transaction=True)
        for endpoint_id in endpoint_ids:
            pipe.delete(names.sent_key(endpoint_id), names.revoked_key(endpoint_id))
            pipe.set(names.epoch_key(endpoint_id), str(epoch))
        pipe.execute()


def _identifier(value: bytes) -> str | None:
    try:
        return checks.identifier(value.decode("ascii", "replace"))
    except ValueError:
        return None
