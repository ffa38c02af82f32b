"""Functions serialized once per executor, and again when anything that they refer to has changed."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

from ..environment import environment_of, limits_of
from ..serialization.by_value import Pickled
from ..serialization.codec import FunctionBody, describe_function, function_name, pickle_function
from ..serialization.local_modules import generation
from ..serialization.snapshot import Snapshot

#: Maximum number of functions that one executor caches.
CACHE_SIZE = 256


class _Entry(NamedTuple):
    function: Callable[..., Any]  # referenced, so that no other object gets its id
    generation: Any
    snapshot: Snapshot
    body: FunctionBody


class FunctionCache:
    """Serialized functions. Every call uses the function as it is at that moment.

    A function is pickled once if a snapshot shows that nothing it refers to has changed. A function that
    refers to objects that cannot be compared this way is pickled for each call, as are methods, partials and
    other callables. Equal bytes have one ``FunctionBody``. Thread-safe.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all functions, also in a forked child, where another thread may have held the lock."""
        self._lock = threading.Lock()
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._bodies: OrderedDict[Any, FunctionBody] = OrderedDict()

    def get(self, fn: Callable[..., Any]) -> FunctionBody:
        """Return a serialized function. Raises SerializeError, TypeError."""
        entry = self._entries.get(id(fn))
        if entry is not None and entry.generation == generation() and entry.snapshot.is_valid():
            return entry.body
        # the snapshot is older than the bytes: a change between the two is detected next time
        taken, snapshot = generation(), _snapshot(fn)
        body = self._shared(fn, pickle_function(fn))
        with self._lock:
            self._entries.pop(id(fn), None)
            if snapshot is not None:
                self._entries[id(fn)] = _Entry(fn, taken, snapshot, body)
                if len(self._entries) > CACHE_SIZE:
                    self._entries.popitem(last=False)
        return body

    def _shared(self, fn: Callable[..., Any], pickled: Pickled) -> FunctionBody:
        digest = hashlib.sha256(pickled).digest()
        key = digest, function_name(fn), environment_of(fn), limits_of(fn)
        with self._lock:
            body = self._bodies.get(key)
        if body is None:
            body = describe_function(fn, pickled)
            with self._lock:
                body = self._bodies.setdefault(key, body)
                if len(self._bodies) > CACHE_SIZE:
                    self._bodies.popitem(last=False)
        return body


def _snapshot(fn: Callable[..., Any]) -> Snapshot | None:
    """Return a snapshot of a function, or None if it must be pickled for each call."""
    if not isinstance(fn, (FunctionType, BuiltinFunctionType)):
        return None
    try:
        return Snapshot(fn)
    except Exception:  # NotComparable, or whatever an attribute raises when it is read
        return None
