"""Code serialized once per executor, and again when anything that it refers to has changed."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

from ..environment import environment_of, limits_of
from ..protocol.limits import MAX_PAYLOAD_BYTES
from ..serialization.bound import Bound
from ..serialization.by_value import Pickled
from ..serialization.codec import FunctionBody, describe_function, dump_call, function_name, pickle_function
from ..serialization.identity import with_identity
from ..serialization.local_modules import generation
from ..serialization.snapshot import Snapshot
from ..serialization.split import Split, Templates, is_distinct, split

#: Maximum number of functions that one executor caches.
CACHE_SIZE = 256
#: Maximum number of states whose uses are counted.
MAX_STATES = 4_096
#: Largest state that travels with calls (bytes). A larger one is part of the function.
MAX_STATE = 1024 * 1024
#: Largest state of which each call gets a copy of its own although it is part of the function (bytes).
MAX_COPIED = 64 * 1024
#: An equal state that was sent this often (bytes in all) becomes part of the function.
MAX_SENT = 256 * 1024
#: Bytes of a call that are counted in addition to its state.
STATE_OVERHEAD = 100
#: Largest arguments of a partial that are simply passed to its function (bytes).
MAX_PASSED = 256


class _Entry(NamedTuple):
    code: Any  # referenced, so that no other object gets its id
    generation: Any
    snapshot: Snapshot
    body: FunctionBody
    shared: dict[int, Any]  # objects whose identity matters, by their ids


class _Use(NamedTuple):
    """The bytes of one state that were sent with calls, or the function that it is part of."""

    code: FunctionBody  # referenced, so that no other body gets its id
    sent: int = 0
    body: FunctionBody | None = None


#: By the function of the code, and a digest of the state.
_Uses = OrderedDict[tuple[int, bytes], _Use]


class FunctionCache:
    """Serialized functions. Every call uses the function as it is at that moment.

    A function is pickled once if a snapshot shows that nothing it refers to has changed. One that refers to
    objects that cannot be compared this way is pickled for each call. Equal bytes have one ``FunctionBody``.

    Of methods, partials, other callables and functions that are defined again and again, only the code is a
    ``FunctionBody``; the state travels with each call, unless it is large or has been sent often.
    Thread-safe.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all functions, also in a forked child, where another thread may have held the lock."""
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._bodies: OrderedDict[Any, FunctionBody] = OrderedDict()
        self._sent: _Uses = OrderedDict()
        self._stored: _Uses = OrderedDict()
        self._templates = Templates()

    def get(self, fn: Callable[..., Any]) -> FunctionBody:
        """Return a serialized function with its state. Raises SerializeError, TypeError."""
        known = self._known(id(fn))
        if known is not None:
            return known
        # the snapshot is older than the bytes: a change between the two is detected next time
        comparable = isinstance(fn, (FunctionType, BuiltinFunctionType, type))
        taken, snapshot = generation(), _snapshot(fn) if comparable else None
        return self._keep(id(fn), fn, taken, snapshot, self._shared(fn, pickle_function(fn)))

    def bind(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
    ) -> tuple[FunctionBody, bytes]:
        """Return the serialized function and the payload of a call. ``name``: another name for people.

        Raises SerializeError, TooLarge, TypeError.
        """
        fn, args, kwargs = _passed(fn, args, kwargs)
        known = self._known(id(fn))
        if known is not None:
            return known, dump_call(args, kwargs)
        if not self._is_whole(fn):
            found = self._split(fn, name)
            if found is not None:
                body, state = found
                payload = dump_call(args if state is None else (state, *args), kwargs)
                if state is None or len(payload) <= MAX_PAYLOAD_BYTES:
                    return body, payload
        return self.get(fn), dump_call(args, kwargs)

    def _is_whole(self, fn: Any) -> bool:
        """Return whether a callable is registered with all that it refers to.

        True of functions that can be found by name, and of the first one of each code: most programs define
        a function once.
        """
        if type(fn) is not FunctionType:
            return isinstance(fn, (BuiltinFunctionType, type)) or not callable(fn)
        try:
            return not is_distinct(fn) or self._templates.add(fn)
        except TypeError:  # an attribute that cannot be hashed
            return True

    def _split(self, fn: Any, name: str | None) -> tuple[FunctionBody, bytes | None] | None:
        """Return the code of a callable and its state; no state if it is part of the code.

        None if the parts cannot be serialized: then the callable as a whole may be, or has a better error.
        """
        try:
            name = name or function_name(fn)
            return self._place(fn, *self._parts(fn, name), name)
        except Exception:  # pickling runs code of any library, which may raise anything
            return None

    def _parts(self, fn: Any, name: str) -> tuple[Split, FunctionBody]:
        """Return the parts of a callable, and the function that is registered for its code."""
        parts = split(fn, self._templates)
        code, referred, snapshot = self._code(fn, parts.table, name)
        if not referred:
            return parts, code
        common = with_identity(obj for key, obj in parts.pickler.objects().items() if key in referred)
        if not common:
            return parts, code
        # all objects if they are known, so that the table is the same for other states
        more = common if snapshot is None else referred.values()
        in_table = set(map(id, parts.table))
        table = (*parts.table, *(obj for obj in more if id(obj) not in in_table))
        parts = split(fn, self._templates, table)
        return parts, self._code(fn, parts.table, name)[0]

    def _code(
        self, fn: Any, table: tuple[Any, ...], name: str
    ) -> tuple[FunctionBody, dict[int, Any], Snapshot | None]:
        """Return the function for a table, what it refers to by the objects' ids, and its snapshot."""
        key = (name, environment_of(fn), limits_of(fn), *map(id, table))
        entry = self._valid(key)
        if entry is not None:
            return entry.body, entry.shared, entry.snapshot
        taken, snapshot = generation(), _snapshot(table)
        bound = Bound(table)
        pickled = pickle_function(bound)
        body = self._shared(fn, pickled, name, bound)
        if snapshot is None:
            return body, pickled.pickler.objects(), None
        shared = {id(obj): obj for obj in with_identity(snapshot.objects())}
        self._keep(key, table, taken, snapshot, body, shared)
        return body, shared, snapshot

    def _place(
        self, fn: Any, parts: Split, code: FunctionBody, name: str
    ) -> tuple[FunctionBody, bytes | None]:
        """Decide whether a state travels with the call or is part of the function."""
        size = len(parts.state)
        key = id(code), hashlib.blake2b(parts.state, digest_size=16).digest()
        stored, use = self._stored.get(key), self._sent.get(key)
        if stored is not None:
            return stored.body or code, None
        sent = (use.sent if use is not None else 0) + size + STATE_OVERHEAD
        if size <= MAX_STATE and (use is None or sent <= MAX_SENT):
            self._remember(self._sent, key, _Use(code, sent), MAX_STATES)
            return code, parts.state
        body = self._with_state(fn, parts, name)
        if self._parts(fn, name)[0].state == parts.state:  # else it was changed meanwhile
            self._remember(self._stored, key, _Use(code, body=body), CACHE_SIZE)
        return body, None

    def _remember(self, uses: _Uses, key: tuple[int, bytes], use: _Use, most: int) -> None:
        with self._lock:
            uses[key] = use
            if len(uses) > most:
                uses.popitem(last=False)

    def _with_state(self, fn: Any, parts: Split, name: str) -> FunctionBody:
        """Return the function that is registered for a callable with its state."""
        if len(parts.state) > MAX_COPIED or type(fn) is FunctionType:  # which has a snapshot
            return self.get(fn)
        bound = Bound(parts.table, parts.state)
        return self._shared(fn, pickle_function(bound), name, bound)

    def _known(self, key: Hashable) -> FunctionBody | None:
        entry = self._valid(key)
        return None if entry is None else entry.body

    def _valid(self, key: Hashable) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None and entry.generation == generation() and entry.snapshot.is_valid():
            return entry
        return None

    def _keep(
        self,
        key: Hashable,
        code: Any,
        taken: Any,
        snapshot: Snapshot | None,
        body: FunctionBody,
        shared: dict[int, Any] | None = None,
    ) -> FunctionBody:
        with self._lock:
            self._entries.pop(key, None)
            if snapshot is not None:
                self._entries[key] = _Entry(code, taken, snapshot, body, shared or {})
                if len(self._entries) > CACHE_SIZE:
                    self._entries.popitem(last=False)
        return body

    def _shared(
        self, fn: Callable[..., Any], pickled: Pickled, name: str | None = None, bound: Bound | None = None
    ) -> FunctionBody:
        digest = hashlib.sha256(pickled).digest()
        key = digest, name or function_name(fn), environment_of(fn), limits_of(fn)
        with self._lock:
            body = self._bodies.get(key)
        if body is None:
            body = describe_function(fn, pickled, name=name, bound=bound)
            with self._lock:
                body = self._bodies.setdefault(key, body)
                if len(self._bodies) > CACHE_SIZE:
                    self._bodies.popitem(last=False)
        return body


def _snapshot(code: Any) -> Snapshot | None:
    """Return a snapshot of a function or a table, or None if it must be pickled for each call."""
    try:
        return Snapshot(code)
    except Exception:  # NotComparable, or whatever an attribute raises when it is read
        return None


def _passed(
    fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Replace partials with small arguments by their functions and all arguments of the call."""
    while type(fn) is functools.partial and not vars(fn) and _are_small(fn.args, fn.keywords):
        fn, args, kwargs = fn.func, (*fn.args, *args), {**fn.keywords, **kwargs}
    return fn, args, kwargs


def _are_small(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    size = 0
    for value in (*args, *kwargs.values()):
        kind = type(value)
        if kind is str or kind is bytes:
            size += len(value)
        elif kind is int:
            size += value.bit_length() >> 3
        elif not (value is None or kind is float or kind is bool):
            return False
    return size <= MAX_PASSED
