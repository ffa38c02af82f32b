"""A store in memory with the Redis commands that the service uses, and a network that can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import redis

from federation.broker import client as broker_client
from federation.broker import holdings, node_states, report_lists
from federation.services import broker_quota
from tests.simulation.clock import Clock

#: Decides what becomes of a request: None, or an error before ("refused") or after it was executed ("cut").
Network = Callable[[], str | None]


_SCRIPTS = {
    report_lists._WAITING: "count_reports",
    report_lists._READ: "read_reports",
    report_lists._REMOVE: "remove_reports",
    broker_client._READ_QUEUE: "read_queue",
    holdings._PUSH: "push_bundles",
    holdings._REVOKE: "revoke_bundles",
    holdings._READ: "read_instances",
    node_states._BEATS: "read_beats",
    node_states._STATES: "read_states",
    node_states._EXISTING: "find_existing",
    broker_quota._MEASURE: "measure",
}


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _text(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else key


class Store:
    """Keys and values. Lists are Python lists with the head of the Redis list first."""

    def __init__(self, clock: Clock, network: Network = lambda: None):
        self.clock, self.network = clock, network
        self.forward = clock.forward
        self.data: dict[str, Any] = {}
        self._expires: dict[str, float] = {}
        self._accounts: set[str] = set()
        self._subscribers: list[_PubSub] = []
        #: called with every published channel and message
        self.published: Callable[[str, bytes], None] = lambda channel, message: None

    # Requests

    def __getattr__(self, command: str) -> Any:
        """Return a Redis command as a method of a client: one request each."""
        if not hasattr(type(self), "_" + command):
            raise AttributeError(f"the simulated store has no command {command}")
        return lambda *words, **more: self.request([(command, words, more)])[0]

    def request(self, commands: list[Any]) -> list[Any]:
        """Execute commands in one round trip."""
        fault = self.network()
        if fault == "refused":
            raise redis.ConnectionError("connection refused (simulated)")
        answers = [getattr(self, "_" + name)(*words, **more) for name, words, more in commands]
        if fault == "cut":
            raise redis.ConnectionError("connection cut (simulated)")
        return answers

    def pipeline(self, transaction: bool = False) -> Any:
        """Return a pipeline."""
        return _Pipeline(self)

    def pubsub(self, **options: Any) -> Any:
        """Return a subscriber."""
        return _PubSub(self)

    def register_script(self, script: str) -> Any:
        """Return what does the same as a script of the broker client, as one request to ``client``."""
        name = _SCRIPTS[script]

        def run(keys: Sequence[str], words: Sequence[Any] = (), client: Any = None) -> Any:
            return getattr(client, name)(keys, words)

        return run

    def close(self) -> None:
        """There is nothing to close."""

    def wipe(self, prefix: str = "") -> None:
        """Lose everything, or the keys with this prefix."""
        for key in [key for key in self.data if key.startswith(prefix)]:
            del self.data[key]
        if not prefix:
            self._accounts.clear()

    # Commands

    def _find(self, key: Any, new: type | None = None) -> Any:
        name = _text(key)
        if self._expires.get(name, 0.0) and self._expires[name] <= self.clock():
            del self._expires[name]
            self.data.pop(name, None)
        if new is not None and name not in self.data:
            self.data[name] = new()
        return self.data.get(name)

    def _ping(self) -> bool:
        return True

    def _info(self, section: str = "") -> dict[str, str]:
        return {"redis_version": "7.2.0", "run_id": "run"}

    def _execute_command(self, *words: Any) -> Any:
        """Execute ACL commands: accounts have names only."""
        command, users = words[1], [_text(user) for user in words[2:]]
        if command == "USERS":
            return sorted(self._accounts)
        if command == "SETUSER":
            self._accounts.add(users[0])
        elif command == "DELUSER":
            self._accounts.difference_update(users)
        return users[:1] if command == "GETUSER" and users[0] in self._accounts else None

    def _get(self, key: Any) -> bytes | None:
        found: bytes | None = self._find(key)
        return found

    def _set(self, key: Any, value: Any, ex: Any = None, px: Any = None, nx: bool = False) -> bool | None:
        if nx and self._find(key) is not None:
            return None
        self.data[_text(key)] = _bytes(value)
        self._expires.pop(_text(key), None)
        if ex or px:
            self._expires[_text(key)] = self.clock() + (float(ex) if ex else float(px) / 1000)
        return True

    def _exists(self, *keys: Any) -> int:
        return sum(self._find(key) is not None for key in keys)

    def _delete(self, *keys: Any) -> int:
        return sum(self.data.pop(_text(key), None) is not None for key in keys)

    def _expire(self, key: Any, seconds: float) -> bool:
        return True

    def _hset(self, key: Any, field: Any, value: Any) -> int:
        self._find(key, dict)[_bytes(field)] = _bytes(value)
        return 1

    def _hget(self, key: Any, field: Any) -> bytes | None:
        return (self._find(key) or {}).get(_bytes(field))

    def _hgetall(self, key: Any) -> dict[bytes, bytes]:
        return dict(self._find(key) or {})

    def _hvals(self, key: Any) -> list[bytes]:
        return list((self._find(key) or {}).values())

    def _hdel(self, key: Any, *fields: Any) -> int:
        return sum((self._find(key) or {}).pop(_bytes(field), None) is not None for field in fields)

    def _hincrby(self, key: Any, field: Any, amount: int = 1) -> int:
        new = int(self._hget(key, field) or 0) + amount
        self._hset(key, field, new)
        return new

    def _hexists(self, key: Any, field: Any) -> bool:
        return _bytes(field) in (self._find(key) or {})

    def _sadd(self, key: Any, *members: Any) -> int:
        found = self._find(key, dict)
        new = dict.fromkeys(each for each in map(_bytes, members) if each not in found)
        found.update(new)
        return len(new)

    def _srem(self, key: Any, *members: Any) -> int:
        found = self._find(key) or {}
        return sum(found.pop(_bytes(member), self) is None for member in members)

    def _smembers(self, key: Any) -> list[bytes]:
        return list(self._find(key) or ())

    def _sismember(self, key: Any, member: Any) -> int:
        return int(_bytes(member) in (self._find(key) or ()))

    def _lmove(self, source: Any, target: Any, src: str = "RIGHT", dest: str = "LEFT") -> bytes | None:
        message = self._rpop(source)
        if message is not None:
            self._lpush(target, message)
        return message

    def _lrem(self, key: Any, count: int, value: Any) -> int:
        found = self._find(key) or []
        if _bytes(value) not in found:
            return 0
        found.reverse()
        found.remove(_bytes(value))
        found.reverse()
        return 1

    def _rpush(self, key: Any, *values: Any) -> int:
        found = self._find(key, list)
        found.extend(map(_bytes, values))
        return len(found)

    def _lpush(self, key: Any, *values: Any) -> int:
        found = self._find(key, list)
        for value in values:
            found.insert(0, _bytes(value))
        return len(found)

    def _rpop(self, key: Any) -> bytes | None:
        found = self._find(key)
        return found.pop() if found else None

    def _llen(self, key: Any) -> int:
        return len(self._find(key) or ())

    def _lrange(self, key: Any, start: int, end: int) -> list[bytes]:
        found = self._find(key) or []
        return list(found[start : None if end == -1 else end + 1])

    def _ltrim(self, key: Any, start: int, end: int) -> bool:
        found = self._find(key) or []
        size = len(found)
        first, last = (start + size if start < 0 else start), (end + size if end < 0 else end)
        found[:] = found[max(0, first) : max(0, last + 1)]
        return True

    def _zadd(self, key: Any, scores: dict[Any, float]) -> int:
        self._find(key, dict).update((_bytes(member), score) for member, score in scores.items())
        return len(scores)

    def _zrange(self, key: Any, start: int, end: int) -> list[bytes]:
        return sorted(self._find(key) or {}, key=lambda member: (self._find(key)[member], member))

    def _zremrangebyscore(self, key: Any, low: float, high: float) -> int:
        found = self._find(key) or {}
        gone = [member for member, score in found.items() if low <= score <= high]
        for member in gone:
            del found[member]
        return len(gone)

    def _publish(self, channel: Any, message: Any) -> int:
        self.published(_text(channel), _bytes(message))
        for subscriber in self._subscribers:
            subscriber.offer(_text(channel), _bytes(message))
        return len(self._subscribers)

    def _read_reports(self, keys: Sequence[str], words: Sequence[Any]) -> list[Any]:
        collector, millis, count, size = words[:4]
        answer = []
        for claim, key in zip(keys[::4], keys[1::4]):
            found = self._find(key) or []
            if not found:
                answer.append([b"read", 0])
            elif not self._set(claim, collector, px=millis, nx=True) and self._get(claim) != _bytes(
                collector
            ):
                answer.append([b"claimed", len(found)])
            else:
                oldest = found[::-1][:count]
                while sum(map(len, oldest)) > size and len(oldest) > 1:
                    oldest.pop()
                answer.append([b"read", len(found), *oldest])
        return answer

    def _count_reports(self, keys: Sequence[str], words: Sequence[Any]) -> list[int]:
        counts = [(number, self._llen(key)) for number, key in enumerate(keys, 1)]
        return [each for pair in counts if pair[1] for each in pair]

    def _find_existing(self, keys: Sequence[str], words: Sequence[Any]) -> list[int]:
        return [number for number, key in enumerate(keys, 1) if self._find(key) is not None]

    def _measure(self, keys: Sequence[str], words: Sequence[Any]) -> list[int]:
        return [1 for _ in keys]

    def _read_queue(self, keys: Sequence[str], words: Sequence[Any]) -> list[bytes]:
        return self._lrange(keys[0], *words[:2])

    def _remove_reports(self, keys: Sequence[str], words: Sequence[Any]) -> None:
        for number, (claim, key, applied) in enumerate(zip(keys[:-1:3], keys[1:-1:3], keys[2:-1:3])):
            count, size, mark = words[2 + 3 * number : 5 + 3 * number]
            found = self._find(key) or []
            if count and found and len(found[-1]) == size and found[-1].startswith(mark):
                del found[-count:]
                self._set(applied, int(self._get(applied) or 0) + count)
            if self._get(claim) == _bytes(words[0]):
                self._delete(claim)
        if words[1]:
            self._publish(keys[-1], words[1])

    def _push_bundles(self, keys: Sequence[str], words: Sequence[Any]) -> list[int]:
        answer = []
        for number in range(len(keys) // 5):
            epoch, sent, revoked, queue, body = keys[5 * number : 5 * number + 5]
            expected, bundle, message, command = words[4 * number : 4 * number + 4]
            if self._get(epoch) != _bytes(expected) or self._sismember(revoked, bundle):
                self._delete(body)
                answer.append(0)
                continue
            self._sadd(sent, bundle)
            {"LPUSH": self._lpush, "RPUSH": self._rpush}[command](queue, message)
            answer.append(1)
        return answer

    def _revoke_bundles(self, keys: Sequence[str], words: Sequence[Any]) -> list[bytes]:
        found = [_bytes(each) for each in words[1:] if not self._sismember(keys[0], each)]
        if found:
            self._sadd(keys[1], *found)
        return found

    def _read_instances(self, keys: Sequence[str], words: Sequence[Any]) -> list[Any]:
        return [list(self._find(key) or ()) for key in keys]

    def _read_beats(self, keys: Sequence[str], words: Sequence[Any]) -> list[Any]:
        answer: list[Any] = []
        for epoch, beats, nodes in zip(keys[::3], keys[1::3], keys[2::3]):
            known = self._find(nodes) or {}
            pairs = [pair for pair in (self._find(beats) or {}).items() if pair[0] in known]
            answer += [self._get(epoch) or b"", [each for pair in pairs for each in pair]]
        return answer

    def _read_states(self, keys: Sequence[str], words: Sequence[Any]) -> list[bytes]:
        return [(self._find(keys[0]) or {}).get(_bytes(each), b"") for each in words[1:]]

    def scan_iter(self, match: str, count: int = 0) -> Iterator[bytes]:
        """Yield the keys that match a pattern."""
        yield from [key.encode() for key in self.data if fnmatchcase(key, match)]


class _Pipeline:
    def __init__(self, store: Store):
        self._store = store
        self._commands: list[Any] = []

    def __getattr__(self, command: str) -> Any:
        def add(*words: Any, **more: Any) -> _Pipeline:
            self._commands.append((command, words, more))
            return self

        return add

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands, self._commands = self._commands, []
        return self._store.request(commands) if commands else []


class _PubSub:
    def __init__(self, store: Store):
        self._store = store
        self._patterns: list[str] = []
        self._messages: list[dict[str, Any]] = []

    def psubscribe(self, *patterns: Any) -> None:
        self._store.request([])
        self._patterns += map(_text, patterns)
        self._store._subscribers.append(self)

    subscribe = psubscribe

    def offer(self, channel: str, message: bytes) -> None:
        if any(fnmatchcase(channel, pattern) for pattern in self._patterns):
            found = {"type": "pmessage", "channel": channel.encode(), "data": message}
            self._messages.append(found)

    def get_message(self, timeout: float = 0.0) -> dict[str, Any] | None:
        if self._messages:
            return self._messages.pop(0)
        self._store.forward(timeout)
        return None

    def close(self) -> None:
        if self in self._store._subscribers:
            self._store._subscribers.remove(self)
