"""Classes that travel as code.

A class keeps its identity on a round trip: the process that defines it names it, and finds it again by that
name when a result contains it. The name has a version, so that a runner does not change the class of earlier
calls when the program has changed it. The class of the program itself is never changed by a result.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakSet

from cloudpickle.cloudpickle import _DYNAMIC_CLASS_TRACKER_BY_ID, _class_setstate, _get_or_create_tracker_id

from .snapshot import Snapshot

#: Number of classes whose version is remembered.
MAX_CLASSES = 256


class _Version(NamedTuple):
    cls: type  # referenced, so that no other class gets its id
    snapshot: Snapshot
    number: int


_numbers = itertools.count(1)
_versions: OrderedDict[int, _Version] = OrderedDict()
_lock = threading.Lock()
#: Classes that were loaded, not defined here; and those whose attributes are set.
_loaded: WeakSet[type] = WeakSet()
_complete: WeakSet[type] = WeakSet()


def reduce(cls: type, reduced: Any) -> Any:
    """Return how to pickle a class, from what cloudpickle's reducer returns for it."""
    if not isinstance(reduced, tuple) or reduced[-1] is not _class_setstate:
        return reduced
    make, args, state = reduced[:3]
    tracker = _get_or_create_tracker_id(cls)
    name = tracker if cls in _loaded else _versioned(cls, tracker)
    # a new string each time, because equal classes must give equal bytes
    named = tuple("".join(name) if arg is tracker else arg for arg in args)
    return make_class, ("".join(name), make, named), ("".join(name), state), None, None, fill_class


def _versioned(cls: type, tracker: str) -> str:
    """Return the name of the present version of a class. It has none if it cannot be compared."""
    with _lock:
        known = _versions.get(id(cls))
    if known is None or not known.snapshot.is_valid():
        try:
            known = _Version(cls, Snapshot(cls), next(_numbers))
        except Exception:  # NotComparable, or whatever an attribute raises when it is read
            return tracker
        with _lock:
            _versions[id(cls)] = known
            if len(_versions) > MAX_CLASSES:
                _versions.popitem(last=False)
    return f"{tracker}#{known.number}"


def make_class(name: str, make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """Return the class of that name: the program's own, one loaded before, or a new one to be filled."""
    own: type | None = _DYNAMIC_CLASS_TRACKER_BY_ID.get(name.partition("#")[0])
    if own is not None and own not in _loaded:
        return own
    cls = make(*args)
    _loaded.add(cls)
    return cls


def fill_class(cls: type, named_state: tuple[str, Any]) -> None:
    """Set the attributes of a class, unless it is the program's own or this version has them."""
    name, state = named_state
    if cls not in _loaded or cls in _complete:
        return
    _class_setstate(cls, state)
    if "#" in name:
        _complete.add(cls)
